"""A page in the browser, on this machine only: what `workbench ui` does.

python ui.py --runs runs --port 7860
"""

from recipes.ui import Config, main
from workbench.command import run_script

if __name__ == "__main__":
    run_script(main, Config, __file__)
