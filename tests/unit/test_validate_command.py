"""`everesthood validate` as a person or a pipeline meets it."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import typer
from ruamel.yaml import YAML
from tests.support.manifests import CREDENTIAL, INSTANCE, TEMPLATE, template
from typer.testing import CliRunner

from everesthood.entrypoints.cli.validate import validate

APP = typer.Typer()
APP.command()(validate)


def written(*documents) -> str:
    out = io.StringIO()
    YAML().dump_all(documents, out)
    return out.getvalue()


@pytest.fixture
def run():
    def call(*arguments, stdin=""):
        return CliRunner().invoke(APP, [str(a) for a in arguments], input=stdin)

    return call


def test_good_manifests_pass(run, tmp_path):
    """A set without faults ends with exit code 0 and a line that sums it up."""
    file = tmp_path / "all.yaml"
    file.write_text(written(TEMPLATE, INSTANCE, CREDENTIAL, {"kind": "Namespace", "apiVersion": "v1"}))
    result = run(file)

    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "3 checked, 0 problems, 1 of other kinds ignored\n"


def test_problems_are_told_with_file_and_line(run, tmp_path):
    """A fault ends with exit code 1 and `file:line: field: what and why`."""
    file = tmp_path / "bad.yaml"
    file.write_text(written(template(displayName=7)))
    result = run(file)
    line = file.read_text().splitlines().index("  displayName: 7") + 1

    assert result.exit_code == 1
    assert result.stdout == f"{file}:{line}: spec.displayName: must be a string, not a number\n"
    assert result.stderr == "1 checked, 1 problem\n"


def test_warnings_do_not_fail(run, tmp_path):
    """What is only missing yet is told and passes."""
    file = tmp_path / "instance.yaml"
    file.write_text(written(INSTANCE))
    result = run(file)

    assert result.exit_code == 0
    assert "warning: spec.templateRef.name: there is no AgentTemplate summary yet" in result.stdout
    assert result.stderr == "1 checked, 0 problems, 2 warnings\n"


def test_folders_are_searched_as_one_set(run, tmp_path):
    """Files of a folder and below it are judged together; others are left alone."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "template.yml").write_text(written(TEMPLATE))
    (tmp_path / "instance.yaml").write_text(written(INSTANCE))
    (tmp_path / "credential.json").write_text(json.dumps(CREDENTIAL))
    (tmp_path / "README.md").write_text("{{ not yaml")
    result = run(tmp_path)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "3 checked, 0 problems\n"


def test_standard_input_is_read(run):
    """`-` takes what a pipe brings."""
    result = run("-", stdin=written(template(displayName="")))
    assert result.exit_code == 1
    assert "<stdin>:" in result.stdout


def test_json_is_for_programs(run):
    """`-o json` says the same with reasons, kinds and names."""
    result = run("-", "-o", "json", stdin=written(template(displayName="")))
    answer = json.loads(result.stdout)

    assert answer["checked"] == 1
    [finding] = answer["findings"]
    assert (finding["path"], finding["reason"], finding["kind"], finding["name"]) == (
        "spec.displayName",
        "InvalidSpec",
        "AgentTemplate",
        "summary",
    )


def test_what_cannot_be_read_is_exit_code_2(run, tmp_path):
    """A missing file or broken YAML is told apart from a bad manifest."""
    missing = tmp_path / "missing.yaml"
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [\n")
    result = run(missing, broken)

    assert result.exit_code == 2
    assert f"{missing}:1: cannot be read: No such file or directory" in result.stdout
    assert f"{broken}:2: not valid YAML" in result.stdout
    assert result.stderr == "0 checked, 2 problems\n"


def test_an_internal_host_can_be_allowed(run):
    """`--internal-host` tells what the platform allows."""
    steps = [{"name": "a", "http": {"url": "http://tools.acme.svc:8080/"}}]
    document = template(steps=steps, egress={"hosts": ["tools.acme.svc:8080"]})
    document["spec"].pop("output")

    assert run("-", stdin=written(document)).exit_code == 1
    assert run("-", "--internal-host", "tools.acme.svc:8080", stdin=written(document)).exit_code == 0


def test_a_byte_order_mark_and_bad_bytes_are_survived(run, tmp_path, monkeypatch):
    """Files of other systems are read; bytes that are no text are no crash."""
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + written(TEMPLATE).encode())
    assert run(file).exit_code == 0

    file.write_bytes(b"\xff\xfe\x00a: 1")
    assert run(file).exit_code in (0, 2)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\x80")))
    assert run("-").exit_code == 0
