"""Recipes: a form for each, the command line that does the same, and the recipes that were started from here.

Forms are plain HTML that the server makes of a recipe's Config; the browser sends their texts, which are checked
here. Recipes are started only where the page was told that it may (`workbench ui --start-recipes`).
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from workbench.errors import UserError
from workbench.jobs import next_signal, state_of, stop
from workbench.ui import recipes_jobs
from workbench.ui.recipes_desk import Desk
from workbench.ui.recipes_form import Recipe, overview, picker
from workbench.ui.shell import QUICK, Shell, asked, line, query, said, visitor

_OWN = files("workbench.ui")
_FORM = _OWN.joinpath("recipes.js").read_text(encoding="utf-8")
_TOLD = _OWN.joinpath("recipes_told.js").read_text(encoding="utf-8")
_PICK = "element.addEventListener('change', (e) => trigger('select', { recipe: e.target.value }));"
_OPEN = """element.addEventListener('click', (e) => {
  const button = e.target.closest('[data-act]');
  if (button) trigger('click', { job: button.dataset.job });
});"""

CSS = _OWN.joinpath("recipes.css").read_text(encoding="utf-8")

_SECONDS = 1.0  # between two looks at what runs
_CLASSES = ["pane", "recipes"]

Updates = dict[Any, Any]


def add_recipes(shell: Shell, known: Mapping[str, tuple[type[Any], str]], may_start: bool) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them.

    Args:
        shell: the page.
        known: each recipe's Config and what it does.
        may_start: whether recipes may be started from here.
    """
    import gradio as gr

    recipes = {name: Recipe(name, config, what) for name, (config, what) in known.items()}
    desk = Desk(recipes, shell.runs, frozenset(shell.catalogue.servers), may_start)
    with gr.Row(elem_id="recipes"):
        with gr.Column(scale=3, min_width=300):
            pick = gr.HTML(picker(recipes), elem_id="recipes-pick", elem_classes=_CLASSES, js_on_load=_PICK)
            form = gr.HTML(overview(recipes), elem_id="recipes-form", elem_classes=_CLASSES, js_on_load=_FORM)
            told = gr.Textbox("", elem_id="recipes-told", visible="hidden", label="What is said of the form")
        with gr.Column(scale=2, min_width=300, visible=may_start):
            board = Board(shell, desk)
    formed = [form, told, *board.outputs]

    def begin(chosen: str, seen: dict[str, Any], request: gr.Request) -> Updates:
        wanted = asked(request)
        updates = board.show(visitor(request), wanted.get("job", ""), {})
        if (recipe := recipes.get(wanted.get("recipe", ""))) is not None:
            updates |= {pick: picker(recipes, recipe.name), form: desk.form(recipe)}
        return updates

    def choose(event: gr.EventData) -> Updates:
        name = _data(event).get("recipe")
        if name == "":
            return {form: overview(recipes), shell.address: query("recipes")}
        try:
            recipe = desk.recipe(name)
        except UserError as error:
            return {form: line(error, problem=True)}
        return {form: desk.form(recipe), shell.address: query("recipes", {"recipe": recipe.name})}

    def check(event: gr.EventData) -> str:
        try:
            return json.dumps(desk.told(desk.asked(_data(event))))
        except UserError:  # no form of ours sends it
            return ""

    def act(chosen: str, seen: dict[str, Any], event: gr.EventData, request: gr.Request) -> Updates:
        data, owner = _data(event), visitor(request)
        if data.get("act") == "like":
            try:
                return {
                    form: desk.like(desk.recipe(data.get("recipe")), data.get("run")),
                    shell.live: said("Filled in."),
                }
            except UserError as error:
                return {shell.live: said(error), form: _with(desk, data.get("recipe"), str(error))}
        try:
            sent = desk.asked(data)
        except UserError as error:
            return {shell.live: said(error)}
        answer = desk.told(sent)
        try:
            start = {"start": desk.start, "estimate": desk.estimate}.get(str(data.get("act")))
            if start is None:
                raise UserError("There is no such button.")
            job = start(owner, sent)
        except UserError as error:
            answer |= {"summary": str(error), "focus": True}
            return {told: json.dumps(answer), shell.live: said(error)}
        answer |= {"summary": "Started.", "started": True}
        return {
            told: json.dumps(answer),
            **board.show(owner, job.id, seen),
            shell.live: said(f"Started: {job.label}."),
            shell.address: query("recipes", {"recipe": sent.recipe.name, "job": job.id}),
        }

    shell.blocks.load(begin, board.states, [pick, *formed], **shell.loading)
    pick.select(choose, None, [form, shell.address], **QUICK)
    form.input(check, None, [told], **QUICK)
    form.click(act, board.states, [*formed, shell.live, shell.address], **QUICK)
    told.change(None, [told], None, js=_TOLD)


def _with(desk: Desk, name: object, note: str) -> str:
    try:
        return desk.form(desk.recipe(name), note=note)
    except UserError as error:
        return line(error, problem=True)


def _data(event: Any) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


class Board:
    """The recipes that the visitor started, and one of them: its state, its log, Stop and Go on."""

    def __init__(self, shell: Shell, desk: Desk) -> None:
        import gradio as gr

        self._shell, self._desk = shell, desk
        self._chosen, self._seen = gr.State(""), gr.State({})
        self._list = gr.HTML("", elem_id="recipes-list", elem_classes=_CLASSES, js_on_load=_OPEN)
        self._head = gr.HTML("", elem_id="recipes-job", elem_classes=_CLASSES, js_on_load=None)
        with gr.Row():
            self._stop = gr.Button("Stop", elem_id="recipes-stop", visible=False, min_width=90)
            self._again = gr.Button("Go on", elem_id="recipes-again", visible=False, min_width=90)
        self._log = gr.HTML("", elem_id="recipes-log", elem_classes=_CLASSES, js_on_load=None)
        self._timer = gr.Timer(_SECONDS, active=False)
        self.states = [self._chosen, self._seen]
        self.outputs = [*self.states, self._list, self._head, self._stop, self._again, self._log, self._timer]
        outputs = [*self.outputs, shell.live]

        def tick(chosen: str, seen: dict[str, Any], request: gr.Request) -> Updates:
            return self.show(visitor(request), chosen, seen)

        def choose(seen: dict[str, Any], event: gr.EventData, request: gr.Request) -> Updates:
            id = str(_data(event).get("job", ""))
            return {**self.show(visitor(request), id, seen), shell.address: query("recipes", {"job": id})}

        def end(chosen: str, seen: dict[str, Any], request: gr.Request) -> Updates:
            owner = visitor(request)
            try:
                job = desk.jobs.find(owner, chosen)
                words = f"{job.label} was sent {stop(job)}."
            except UserError as error:
                words = str(error)
            return {**self.show(owner, chosen, seen), shell.live: said(words)}

        def go_on(chosen: str, seen: dict[str, Any], request: gr.Request) -> Updates:
            owner = visitor(request)
            try:
                job = desk.again(owner, chosen)
            except UserError as error:
                return {**self.show(owner, chosen, seen), shell.live: said(error), self._head: line(error, True)}
            return {
                **self.show(owner, job.id, seen),
                shell.live: said(f"{job.label} goes on."),
                shell.address: query("recipes", {"job": job.id}),
            }

        self._timer.tick(tick, self.states, outputs, **QUICK)
        self._list.click(choose, [self._seen], [*outputs, shell.address], **QUICK)
        self._stop.click(end, self.states, outputs, **QUICK)
        self._again.click(go_on, self.states, [*outputs, shell.address], **QUICK)

    def show(self, owner: str, chosen: str, seen: Mapping[str, Any]) -> Updates:
        """What has changed since it was last shown, and what the live region says of it."""
        import gradio as gr

        if not self._desk.may_start:
            return {self._chosen: chosen}  # Gradio refuses an empty dictionary
        jobs = self._desk.jobs
        mine, others = jobs.seen_by(owner)
        states = {one.id: state_of(one) for one in mine}
        job = next((one for one in mine if one.id == chosen), None)
        now: dict[str, Any] = {
            "job": "" if job is None else job.id,
            "head": "",
            "log": "",
            "stop": None,
            "again": False,
        }
        if job is not None:
            state = states[job.id]
            now |= {
                "state": state,
                "head": recipes_jobs.head(jobs, job, self._shell.runs),
                "log": recipes_jobs.log(job),
                "again": state in ("interrupted", "failed", "lost"),
            }
            if state in ("running", "stopping"):
                now["stop"] = recipes_jobs.STOPS.get(next_signal(job) or "", "Stopping …")
        now["list"] = recipes_jobs.listing(mine, states, others, now["job"])
        now["working"] = any(state in ("running", "stopping") for state in states.values())
        updates: Updates = {self._chosen: now["job"], self._seen: now}
        for name, part in (("list", self._list), ("head", self._head), ("log", self._log)):
            if now[name] != seen.get(name, ""):
                updates[part] = now[name]
        if now["stop"] != seen.get("stop"):
            label = now["stop"]
            updates[self._stop] = gr.Button(
                label or "Stop", visible=label is not None, interactive=label in recipes_jobs.STOPS.values()
            )
        if now["again"] != seen.get("again", False):
            updates[self._again] = gr.Button(visible=now["again"])
        if now["working"] != seen.get("working", False):
            updates[self._timer] = gr.Timer(active=now["working"])
        if job is not None and seen.get("job") == job.id and now["state"] != seen.get("state"):
            updates[self._shell.live] = said(f"{job.label}: {recipes_jobs.WORDS[now['state']]}.")
        return updates
