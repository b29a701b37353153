select namespace, digest, template, spec::text from revision where namespace = $1 and digest = $2
