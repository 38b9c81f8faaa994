.PHONY: help setup check test slow bundle web demo

help:     ## list the commands
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'
setup:    ## install with test tools and the versions tested together
	pip install -c constraints.txt -e '.[test]'
check:    ## lint, types, floors
	ruff check . && ruff format --check . && mypy && lint-imports
test:     ## the tests that CI runs
	pytest -n auto --dist worksteal
slow:     ## the long tests as well
	pytest -m 'slow or not slow'
bundle:   ## write bundle/configs from configs/, and docs/reference from the code
	python scripts/make_bundle.py && python scripts/make_reference.py
web:      ## fetch NiiVue, which the viewer's page embeds (an install does so by itself)
	python scripts/build_web.py
demo:     ## everything once on phantoms
	liver-pipeline demo
