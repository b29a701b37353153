"""The contract as the API server gets it: rules over every schema, and the files in the tree."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from everesthood.apis import crds
from everesthood.apis.schema import _Structural

ROOT = Path(__file__).parents[2]
KINDS = [pytest.param(kind, id=kind.__name__) for kind in crds.KINDS]


def schema_of(kind):
    return crds.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(node, path="") -> Iterator[tuple[str, dict]]:
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from walk(part, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")


def offenders(kind, wrong) -> list[str]:
    return [path for path, node in walk(schema_of(kind)) if path and wrong(path, node)]


def test_the_generated_files_in_the_tree_are_what_the_types_say():
    """A change of the contract shows in review: crds, chart templates and reference are up to date."""
    assert crds.stale(ROOT) == []


def test_check_names_each_stale_file(tmp_path, capsys):
    """`--check` fails and names what is stale, and is content after writing."""
    assert crds.main(["--check", "--root", str(tmp_path)]) == 1
    assert "crds/agenttemplates.yaml is stale" in capsys.readouterr().err

    assert crds.main(["--root", str(tmp_path)]) == 0
    assert crds.main(["--check", "--root", str(tmp_path)]) == 0


def test_generated_yaml_reads_back_as_the_definition():
    """No text of the contract is lost or changed by the YAML that carries it."""
    for kind in crds.KINDS:
        text = crds.yaml_text(crds.definition(kind))
        assert YAML(typ="safe").load(text) == crds.definition(kind)


def test_chart_templates_are_the_same_definition_behind_two_switches():
    """The chart installs exactly the CRDs, and only its own braces mean anything to Helm."""
    for kind in crds.KINDS:
        text = crds.chart_text(kind)
        actions = set(re.findall(r"\{\{.*?\}\}", text))
        bare = re.sub(r"^\s*\{\{-? (if|end).*\n", "", text, flags=re.MULTILINE)
        bare = bare.replace("  annotations:\n    helm.sh/resource-policy: keep\n", "")

        assert actions <= {
            "{{- if .Values.crds.enabled }}",
            "{{- if .Values.crds.keep }}",
            "{{- end }}",
        }
        assert YAML(typ="safe").load(bare) == crds.definition(kind)


def test_braces_of_a_description_are_kept_from_helm(monkeypatch):
    """A description that shows a template does not break the chart."""
    kind = crds.KINDS[0]
    changed = crds.definition(kind) | {"note": "write {{ input.name }}"}
    monkeypatch.setattr(crds, "definition", lambda _kind: changed)
    assert 'write {{ "{{" }} input.name }}' in crds.chart_text(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_come_first_in_status(kind):
    """The first thing that a person reads of a status is its conditions, merged by type."""
    status = schema_of(kind)["properties"]["status"]["properties"]
    assert next(iter(status)) == "conditions"
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "observedGeneration" in status
    assert "observedGeneration" in status["conditions"]["items"]["properties"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_is_a_float_or_a_phase(kind):
    """Money and durations survive every JSON reader, and no status is a state machine."""
    assert offenders(kind, lambda _, node: node["type"] == "number") == []
    assert offenders(kind, lambda path, _: path.lower().endswith("phase")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_string_and_list_is_bounded(kind):
    """No field can grow without end, and the CEL cost budget can be computed."""
    envelope = {".apiVersion", ".kind"}

    def unbounded(path, node):
        if node["type"] == "string":
            return "maxLength" not in node and "enum" not in node and path not in envelope
        return node["type"] == "array" and "maxItems" not in node

    assert offenders(kind, unbounded) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_least_value(kind):
    """A negative count is refused by the schema."""
    assert offenders(kind, lambda _, n: n["type"] == "integer" and "minimum" not in n) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_says_how_it_merges(kind):
    """Server-side apply never replaces a list by accident."""
    kinds = {"set", "map", "atomic"}
    wrong = offenders(
        kind, lambda _, n: n["type"] == "array" and n.get("x-kubernetes-list-type") not in kinds
    )
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_description(kind):
    """`kubectl explain` has an answer for every field."""
    wrong = offenders(kind, lambda p, n: not p.endswith(("[]", ".metadata")) and not n.get("description"))
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural(kind):
    """There is no reference, no union, no closed object and no type that the API server refuses."""
    forbidden = {"$ref", "anyOf", "oneOf", "allOf", "additionalProperties", "title", "const", "nullable"}
    assert offenders(kind, lambda _, n: bool(forbidden & n.keys()) or "type" not in n) == []


@pytest.mark.parametrize("kind", KINDS)
def test_free_form_content_is_only_where_users_write_json(kind):
    """Unknown fields are kept only inside schemas, config and input."""
    free = offenders(kind, lambda _, n: n.get("x-kubernetes-preserve-unknown-fields"))
    assert {path.rpartition(".")[2] for path in free} <= {
        "inputSchema", "configSchema", "outputSchema", "schema", "parameters", "config", "input",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rules_speak_and_name_fields_that_exist(kind):
    """Each CEL rule has a message and reads fields by the names that users write."""
    for _, node in walk(schema_of(kind)):
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"]
            used = set(re.findall(r"self\.([A-Za-z_]+)", rule["rule"]))
            assert used <= node["properties"].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_status_has_no_defaults(kind):
    """The API server writes nothing into a status."""
    status = schema_of(kind)["properties"]["status"]
    assert [path for path, node in walk(status) if "default" in node] == []


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_kind_is_served(kind):
    """Short name, category, status subresource, and Ready, Reason and Age as columns."""
    spec = crds.definition(kind)["spec"]
    version = spec["versions"][0]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]

    assert spec["scope"] == "Namespaced"
    assert spec["names"]["categories"] == ["everesthood"]
    assert spec["names"]["shortNames"][0].startswith("ag")
    assert version["subresources"]["status"] == {}
    assert columns[:2] == ["Ready", "Reason"]
    assert columns[-1] == "Age"
    assert "Message" in columns


def test_instances_scale_and_are_found_by_template():
    """`kubectl scale` works, and one field selector finds the users of a template."""
    version = crds.definition(crds.AgentInstance)["spec"]["versions"][0]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.workers.replicas"
    assert {"jsonPath": ".spec.templateRef.name"} in version["selectableFields"]


def test_names_fit_into_labels():
    """A name of ours always fits into a label and into the names of children."""
    for kind in crds.KINDS:
        name = schema_of(kind)["properties"]["metadata"]["properties"]["name"]
        assert name["maxLength"] == 63


def test_a_kind_must_say_how_it_is_served():
    """A model without RESOURCE is refused with its name."""
    with pytest.raises(TypeError, match="dict lacks RESOURCE"):
        crds.resource(dict)


def test_a_union_of_types_is_refused_by_the_generator():
    """A field with two types cannot be structural, and the generator says so."""
    with pytest.raises(ValueError, match="one type only"):
        _Structural({}).convert({"anyOf": [{"type": "string"}, {"type": "integer"}]})
