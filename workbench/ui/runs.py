"""The runs: a list of all, and of one how it goes, its results, its questions, and itself beside another.

This pane only reads. All that it shows may have been written by a model or come with a folder from elsewhere,
so every text is escaped, what cannot be seen is spelled out, and what the browser names is looked up among what
there is. `runs_view.py` says what is shown, `runs_layout.py` where.
"""

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any

from workbench.errors import UserError
from workbench.ui.runs_layout import Layout, lay_out
from workbench.ui.runs_list import PER_PAGE
from workbench.ui.runs_view import Sections, Shown, View, changed_only
from workbench.ui.shell import QUICK, Shell, asked, line, query, said

CSS = files("workbench.ui").joinpath("runs.css").read_text(encoding="utf-8")

_TO_HEAD = "() => setTimeout(() => document.querySelector('#runs-head h2')?.focus(), 150)"
_TO_LIST = "() => setTimeout(() => document.querySelector('#runs-list a')?.focus(), 150)"

Updates = dict[Any, Any]


def add_runs(shell: Shell) -> None:
    """Put the pane's components into the Blocks that are being built, and connect them."""
    import gradio as gr

    made = lay_out(shell)
    pane, state = Pane(shell, View(shell.runs), made), gr.State(Shown())
    boxes, outputs = made.boxes, [*made.outputs(), shell.address, shell.live]

    def on(triggers: Any, do: Callable[..., Any], *inputs: Any, **how: Any) -> Any:
        return gr.on(triggers, do, [*inputs, state], outputs, **(how or QUICK))

    def begin(shown: Shown, request: gr.Request) -> Updates:
        return pane.begin(shown, asked(request))

    def open_clicked(shown: Shown, event: gr.EventData) -> Updates:
        return pane.open(shown, event._data.get("run"))

    def question_clicked(shown: Shown, event: gr.EventData) -> Updates:
        return pane.show_whole("questions", event._data.get("place"), shown)

    def change_clicked(shown: Shown, event: gr.EventData) -> Updates:
        return pane.show_whole("changed", event._data.get("place"), shown)

    on(shell.blocks.load, begin, **shell.loading)
    named = [boxes[name] for name in ("text", "recipe", "state")]
    on([boxes["text"].change, *(box.input for box in named[1:]), boxes["refresh"].click], pane.filter, *named)
    on(made.htmls["list"].click, open_clicked).then(None, js=_TO_HEAD)
    on(boxes["close"].click, pane.close).then(None, js=_TO_LIST)
    for name in ("result", "part", "which", "other", "kind"):
        on(boxes[name].input, partial(pane.choose, name), boxes[name])
    on(made.htmls["questions"].click, question_clicked)
    on(made.htmls["changed"].click, change_clicked)
    for name, (_, back, further) in made.rows.items():
        on(back.click, partial(pane.turn, name, -1))
        on(further.click, partial(pane.turn, name, 1))
    on(boxes["timer"].tick, pane.tick)


class Pane:
    """What the pane's listeners do: each changes what is shown, and gives what of the page is another now."""

    def __init__(self, shell: Shell, view: View, made: Layout) -> None:
        self.shell, self.view, self.made, self.boxes = shell, view, made, made.boxes

    # --- the list, and the run that is open -----------------------------------------------------------

    def begin(self, shown: Shown, fields: dict[str, str]) -> Updates:
        """The page was opened: the list, or the run that its address names."""
        out = self._list(shown)
        if fields.get("tab") != "runs" or not fields.get("run"):
            return out
        return out | self.open(shown, fields["run"], fields.get("result", ""), fields.get("with", "")[:500])

    def filter(self, text: Any, recipe: Any, state: Any, shown: Shown) -> Updates:
        """Show the runs of the list that are like this."""
        shown.text, shown.recipe, shown.state = (str(value or "")[:200] for value in (text, recipe, state))
        shown.page = 0
        return self._list(shown) if not shown.id else self._nothing()

    def open(self, shown: Shown, id: object, result: str = "", other: str = "") -> Updates:
        """Show a run in place of the list."""
        import gradio as gr

        def there(shown: Shown) -> Sections:
            self.view.open(shown, id, result, other)
            return {**self.view.run(shown), "message": ""}

        out = self._sections(there, shown)
        if not shown.id:
            return out
        return {
            **out,
            self.boxes["everything"]: gr.Column(visible=False),
            self.boxes["one"]: gr.Column(visible=True),
            self.boxes["tabs"]: gr.Tabs(selected="compare" if other else "overview"),
        }

    def close(self, shown: Shown) -> Updates:
        """Show the list again."""
        self.view.close(shown)
        return {**self._list(shown), self.shell.address: query("runs")}

    def tick(self, shown: Shown) -> Updates:
        """What has become of the open run since the last look."""
        import gradio as gr

        id = shown.id
        try:
            sections, news = self.view.follow(shown)
        except (UserError, OSError) as error:
            return {self.boxes["timer"]: gr.Timer(active=False), self.made.htmls["problems"]: line(error, True)}
        if shown.id != id:  # another one was opened meanwhile
            return self._nothing()
        told = {self.shell.live: said(news)} if news else self._nothing()
        return {**self._updates(shown, sections), **told}

    # --- inside the open run --------------------------------------------------------------------------

    def choose(self, name: str, value: Any, shown: Shown) -> Updates:
        """Another value of one of the run's inputs, by the input's name."""
        setattr(shown, name, str(value or "")[:500])
        if name in ("result", "which"):
            shown.asked, shown.whole = 0, set()
        if name in ("result", "other", "kind"):
            shown.turned, shown.wide = 0, set()
        views = {"which": self.view.questions, "other": self.view.pair, "kind": self.view.pair}
        return self._sections(views.get(name, self.view.run), shown)

    def turn(self, name: str, step: int, shown: Shown) -> Updates:
        """Another page of the list, the questions or those that changed."""
        if name == "list":
            shown.page += step
            return self._list(shown)
        if name == "questions":
            shown.asked += step
            return self._sections(self.view.questions, shown)
        shown.turned += step
        return self._sections(self.view.pair, shown)

    def show_whole(self, name: str, place: object, shown: Shown) -> Updates:
        """Show all of the text at this place of the questions or of those that changed."""
        if isinstance(place, str) and place.isdecimal() and len(place) < 10:
            (shown.whole if name == "questions" else shown.wide).add(int(place))
        return self._sections(self.view.questions if name == "questions" else self.view.pair, shown)

    # --- what the browser is told ---------------------------------------------------------------------

    def _nothing(self) -> Updates:
        """No change at all, which Gradio does not take an empty dict for."""
        import gradio as gr

        return {self.shell.live: gr.skip()}

    def _list(self, shown: Shown) -> Updates:
        import gradio as gr

        sections = {**self.view.all(shown), "running": False, "message": ""}
        shut = {self.boxes["everything"]: gr.Column(visible=True), self.boxes["one"]: gr.Column(visible=False)}
        return {**self._updates(shown, sections), **shut}

    def _sections(self, made: Callable[[Shown], Sections], shown: Shown) -> Updates:
        """What is to be shown of the open run, and its address; the list, and why, where it is gone."""
        try:
            sections = made(shown)
        except (UserError, OSError) as error:
            self.view.close(shown)
            out = self._list(shown) | self._updates(shown, {"message": line(error, problem=True)})
            return {**out, self.shell.address: query("runs")}
        out = self._updates(shown, sections)
        first = next(iter(shown.sent.get("results", [])), "")
        fields = {"run": shown.id, "result": shown.result if shown.result != first else "", "with": shown.other}
        return {**out, self.shell.address: query("runs", fields)}

    def _updates(self, shown: Shown, sections: Sections) -> Updates:
        """What the browser does not show yet of these sections."""
        import gradio as gr

        out: Updates = {}
        for name, value in changed_only(shown, sections).items():
            if name in self.made.htmls:
                out[self.made.htmls[name]] = value
            elif name.endswith("-paging"):
                out[self.made.rows[name.removesuffix("-paging")][0]] = gr.Row(visible=value > PER_PAGE)
            elif name == "kinds":
                out[self.boxes["kind"]] = gr.Radio(value=value or "all", visible=bool(value))
            elif name == "which":
                out[self.boxes["which"]] = value
            elif name == "running":
                out[self.boxes["timer"]] = gr.Timer(active=value)
            elif name == "recipes":
                out[self.boxes["recipe"]] = gr.Dropdown([("all", ""), *((word, word) for word in value)])
            elif name in ("results", "parts", "others"):
                choices, chosen = self._choices(name, value, shown)
                box = self.boxes[name.removesuffix("s")]
                out[box] = gr.Dropdown(choices, value=chosen, visible=name == "others" or len(choices) > 1)
        return out

    def _choices(self, name: str, values: list[str], shown: Shown) -> tuple[list[tuple[str, str]], str | None]:
        """What can be chosen, as (words, value), and what is."""
        chosen = {"results": shown.result, "parts": shown.part, "others": shown.other}[name]
        if name == "parts":
            named = [(value or "this run", value) for value in values]
            return named, chosen if chosen in values else values[0] if values else None
        return [(value.removesuffix("/result"), value) for value in values], chosen if chosen in values else None
