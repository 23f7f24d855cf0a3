"""The recipes: one file each, a Config and a `main(config) -> Result`; `recipes/__main__.py` lists them."""
