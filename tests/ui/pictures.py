"""A person's way through the page with the embedded model, in a browser: `python tests/ui/pictures.py FOLDER`.

Chat with Stop; a recipe started from its form, stopped and gone on with; base against LoRA with 8 samples; ten
blind votes, exported, and DPO trained on them; a ladder followed live. It takes a quarter of an hour on two cores,
prints what it saw, and leaves pictures of desktop and phone width in tests/ui/pictures/, where the README has them
from. FOLDER is the folder of runs.
"""

import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pages import served
from playwright.sync_api import sync_playwright

from workbench.preferring.pairs import read_pairs

PICTURES = Path(__file__).with_name("pictures")
LONG = 1_200_000  # milliseconds
WIDTHS = {"desktop": (1200, 900), "phone": (390, 844)}

# Where the runs lie on the machine that the pictures are made on is nobody's business.
_NO_PATHS = """(folder) => {
    const short = (text) => text.replaceAll(folder, 'runs').replace(/\\.page\\/[0-9a-f]{32}/g, '.page/…');
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        if (texts.currentNode.data.includes(folder)) texts.currentNode.data = short(texts.currentNode.data);
    }
    for (const box of document.querySelectorAll('input, textarea')) {
        if (box.value.includes(folder)) box.value = short(box.value);
    }
}"""


class Walk:
    """The page as one person has it, at desktop width and, for pictures, on a phone."""

    def __init__(self, context: Any, address: str, runs: Path) -> None:
        self.context, self.address, self.runs = context, address, runs
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)

    def open(self, query: str) -> None:
        self.page.goto(f"{self.address}/{query}")
        tab = re.findall(r"tab=(\w+)", query)[0].capitalize()
        self.page.locator("[role=tab][aria-selected=true]", has_text=tab).wait_for()
        self.page.wait_for_timeout(2_000)  # what the pane's listener puts in

    def shoot(self, name: str) -> None:
        """The page as it stands, then as a phone shows the same: the window is made narrow, not loaded anew."""
        for kind, (width, height) in WIDTHS.items():
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.wait_for_timeout(800)
            self.page.evaluate(_NO_PATHS, str(self.runs.resolve()))
            self.page.screenshot(path=PICTURES / f"{name}-{kind}.png", full_page=True)
        self.page.set_viewport_size({"width": 1200, "height": 900})
        self.page.wait_for_timeout(300)

    def chat(self) -> None:
        self.open("?tab=chat")
        box = self.page.locator("#chat-question textarea")
        box.fill("Why is the sky blue? Explain it to a child.")
        box.press("Enter")
        self.page.locator("#chat-coming", has_text=re.compile(r"\w+(\W+\w+){5}")).wait_for(timeout=LONG)
        clicked = time.monotonic()
        self.page.locator("#chat-stop").click()
        self.page.locator("#chat-line", has_text="topped").wait_for()
        print(f"chat: stopped {time.monotonic() - clicked:.2f} s after the click", flush=True)
        box.fill("Give me one sentence about the sea.")
        box.press("Enter")
        self.page.locator("#chat-line", has_text="(prompt + answer)").wait_for(timeout=LONG)
        print("chat:", self.page.locator("#chat-line").inner_text(), flush=True)
        self.shoot("chat")

    def field(self, name: str) -> Any:
        found = self.page.locator(f'#recipes-form [name="{name}"]')
        if not found.is_visible():
            found.evaluate("field => { field.closest('details').open = true; }")
        return found

    def state(self, words: str, timeout: float = LONG) -> None:
        self.page.locator("#recipes-job h3", has_text=words).wait_for(timeout=timeout)

    def start(self, recipe: str, **fields: str) -> None:
        self.open(f"?tab=recipes&recipe={recipe}")
        self.page.locator("#recipes-form form").wait_for()
        for name, value in fields.items():
            field = self.field(name)
            field.fill(value)
            field.blur()
        self.page.wait_for_timeout(500)
        print("form:", self.page.locator("#recipes-form .recipes-command code").inner_text(), flush=True)

    def begin(self, recipe: str) -> None:
        self.page.locator("#recipes-form [data-act=start]").click()
        self.state(f"{recipe}: running")

    def lora(self) -> None:
        self.start("lora", name="lora-arithmetic", questions="120")
        self.page.locator("#recipes-form [data-act=estimate]").click()
        self.page.locator("#recipes-form", has_text="FLOPs").wait_for()
        self.begin("lora")
        self.page.locator("#recipes-log pre", has_text=re.compile(r"training: \d+ of \d+")).wait_for(timeout=LONG)
        self.page.wait_for_timeout(8_000)
        self.shoot("recipe")
        clicked = time.monotonic()
        self.page.get_by_role("button", name="Stop", exact=True).click()
        self.state("lora: interrupted")
        print(f"recipe: interrupted {time.monotonic() - clicked:.1f} s after Stop", flush=True)
        self.page.get_by_role("button", name="Go on", exact=True).click()
        self.state("lora: running")
        self.state("lora: done")
        print("recipe:", self.page.locator("#recipes-log pre").inner_text().strip().splitlines()[-1], flush=True)

    def choose(self, box: str, text: str) -> None:
        """An option of a dropdown, by what it begins with."""
        self.page.locator(f"#{box} input").click()
        self.page.locator("[role=option]:visible", has_text=text).first.click()

    def compare(self) -> None:
        self.open("?tab=compare&task=arithmetic&number=7")
        self.choose("compare-a-model", "smollm2-135m-instruct")
        self.choose("compare-a-prompt", "arithmetic")
        self.choose("compare-b-model", "lora-arithmetic")
        for pane in "ab":
            self.page.locator(f"#compare-{pane}-decoding button").first.click()
            self.page.locator(f"#compare-{pane}-way label", has_text="Majority").click()
            n = self.page.locator(f"#compare-{pane}-n input")
            n.wait_for()
            n.fill("8")
            n.blur()
        self.page.wait_for_timeout(1_000)
        self.page.locator("#compare-ask").click()
        for pane in "ab":
            self.page.locator(f"#compare-{pane}-votes", has_text="Votes of").wait_for(timeout=LONG)
            print(f"compare {pane}:", self.page.locator(f"#compare-{pane}-status").inner_text(), flush=True)
            print(self.page.locator(f"#compare-{pane}-votes").inner_text()[:300], flush=True)
            self.page.locator(f"#compare-{pane}-decoding button").first.click()
        self.shoot("compare")
        print("address:", self.page.url.partition("?")[2][:120], flush=True)

    def right(self, side: str, question: str) -> bool:
        """Whether an answer to arithmetic is right, by the last number in it."""
        asked = re.search(r"[-\d][-\d\s+*×/()]*\d", question)
        text = self.page.locator(f"#arena-answers .arena-side >> nth={0 if side == 'left' else 1}").inner_text()
        numbers = re.findall(r"-?\d+", text)
        return bool(asked and numbers) and int(numbers[-1]) == eval(asked[0].replace("×", "*"), {})

    def arena(self) -> Path:
        self.open("?tab=arena&task=arithmetic")
        for label in self.page.locator("#arena-players label").all():
            wanted = label.inner_text().strip().startswith(("smollm2", "lora-arithmetic"))
            if label.locator("input").is_checked() != wanted:
                label.click()
        cast: list[str] = []
        for count in range(1, 11):
            self.page.locator("#arena-start:not([disabled])").wait_for()
            self.page.locator("#arena-start").click()
            self.page.locator("#arena-left:not([disabled])").wait_for()
            question = self.page.locator("#arena-question .exact").first.inner_text()
            left, right = self.right("left", question), self.right("right", question)
            vote = "tie" if left and right else "left" if left else "right" if right else "both-bad"
            if count == 10:
                self.shoot("arena")
            self.page.locator(f"#arena-{vote}").click()
            self.page.locator("#arena-line", has_text="Vote kept").wait_for()
            cast.append(vote)
        print("arena:", " ".join(cast), flush=True)
        self.page.locator("#arena-standings tbody tr").first.wait_for()
        print(self.page.locator("#arena-standings").inner_text(), flush=True)
        self.shoot("votes")
        pairs = max(self.runs.glob(".page/*/pairs.jsonl"), key=lambda file: file.stat().st_mtime)
        print(f"arena: {len(read_pairs(pairs))} pairs", flush=True)
        return pairs

    def dpo(self, pairs: Path) -> None:
        self.start("dpo", name="dpo-votes", questions="60", pairs=str(pairs))
        self.begin("dpo")
        self.state("dpo: done")
        print("dpo:", self.page.locator("#recipes-log pre").inner_text()[-900:], flush=True)

    def ladder(self) -> None:
        rungs = ("zero-shot", "few-shot-random", "lora", "majority-vote")
        self.start("ladder", name="ladder-live", questions="120", rungs="\n".join(rungs))
        self.begin("ladder")
        self.page.locator("#recipes-job a", has_text="Its run").click()
        self.page.locator("#runs-progress", has_text=re.compile(r"Update [3-9]\d of")).wait_for(timeout=LONG)
        self.shoot("ladder")
        self.page.locator("#runs-head", has_text="done").wait_for(timeout=LONG)
        self.page.wait_for_timeout(2_000)
        self.shoot("runs")
        print("ladder:", self.page.locator("#runs-rungs").inner_text()[:900], flush=True)


def main(runs: Path, steps: list[str]) -> None:
    """Walk; a step that is not named is left out."""
    PICTURES.mkdir(exist_ok=True)
    with served("ui.py", "--runs", str(runs), "--start-recipes") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        walk = Walk(browser.new_context(viewport={"width": 1200, "height": 900}), address, runs)
        pairs = None
        for step in steps or ["chat", "lora", "compare", "arena", "dpo", "ladder"]:
            started = time.monotonic()
            try:
                if step == "arena":
                    pairs = walk.arena()
                elif step == "dpo":
                    assert pairs is not None, "dpo goes behind arena"
                    walk.dpo(pairs)
                else:
                    getattr(walk, step)()
            except Exception:
                walk.page.screenshot(path=runs.parent / f"failed-{step}.png", full_page=True)
                raise
            print(f"-- {step}: {time.monotonic() - started:.0f} s", flush=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
