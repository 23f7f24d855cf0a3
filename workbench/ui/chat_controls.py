"""The chat pane's settings: which model, which persona or system prompt, how answers are drawn."""

from dataclasses import replace
from typing import Any

from workbench.catalogue import Entry
from workbench.decodes import LabelLikelihood
from workbench.errors import UserError
from workbench.prompts import describe, prompts_of
from workbench.ui.chat_settings import NONE, OWN, SLOTS, START, Settings, checked, own_variables
from workbench.ui.shell import MAX_TEXT, QUICK, Shell, line, query

_NUMBERS = {
    "temperature": ("Temperature: 0 to 2; 0 takes the likeliest", 0.1),
    "top_p": ("top_p: above 0, up to 1", 0.05),
    "top_k": ("top_k: 0 keeps every token", 1),
    "max_tokens": ("max_tokens: 1 up to the model's context", 1),
    "seed": ("Seed: another one draws other answers", 1),
}

Updates = dict[Any, Any]
"""New values of components."""


class Controls:
    """The settings' components, made where the Blocks are being built.

    Args:
        shell: the page's.
        state: holds the pane's `Session`.
    """

    def __init__(self, shell: Shell, state: Any) -> None:
        import gradio as gr

        self._shell, self._state = shell, state
        self.model = gr.Dropdown([], label="Model", elem_id="chat-model", interactive=False)  # until it has some
        self._facts = gr.HTML("", elem_id="chat-facts", elem_classes=["pane"], js_on_load=None)
        with gr.Accordion("Prompt and persona", open=False, elem_id="chat-prompt"):
            self._persona = gr.Dropdown(
                _personas(None), value=NONE, label="Persona", elem_id="chat-persona", interactive=True
            )
            self._about = gr.HTML("", elem_id="chat-about", elem_classes=["pane"], js_on_load=None)
            self._slots = [
                gr.Textbox(visible=False, elem_id=f"chat-slot-{i}", max_lines=3, interactive=True)
                for i in range(SLOTS)
            ]
            self._system_prompt = gr.Textbox(
                label="System prompt (empty: the model's own)",
                elem_id="chat-system",
                lines=3,
                max_lines=8,
                max_length=MAX_TEXT,
            )
        with gr.Accordion("Sampling", open=False, elem_id="chat-sampling"):
            self._numbers = [
                gr.Number(getattr(START, name), label=label, step=step, elem_id=f"chat-{name.replace('_', '-')}")
                for name, (label, step) in _NUMBERS.items()
            ]
        self._refresh = gr.Button("Look for new models", elem_id="chat-refresh", size="sm")

    @property
    def inputs(self) -> list[Any]:
        """What a listener needs that calls `read`."""
        return [self.model, self._persona, self._system_prompt, *self._slots, *self._numbers]

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `choices` change."""
        return [*self.inputs, self._about, self._facts]

    def read(self, sent: Updates) -> tuple[Entry, Settings]:
        """The settings as a browser sent them.

        Raises:
            UserError: a field is wrong; the message names it.
        """
        values, numbers = [sent[slot] for slot in self._slots], [sent[number] for number in self._numbers]
        told = (sent[self._persona], sent[self._system_prompt])
        # A question may be asked before the list of models has come: it is the first one's.
        model = sent[self.model] or self._shell.catalogue.entries()[0].key
        return checked(self._shell.catalogue, model, *told, values, numbers)

    def show(self, settings: Settings) -> Updates:
        """The components with these settings in them.

        Raises:
            UserError: their model is not among the catalogue's any more.
        """
        entry, s = self._shell.catalogue.find(settings.model), settings.sampling
        numbers = (s.temperature, s.top_p, s.top_k, s.max_tokens, s.seed)
        return {
            **self._model(entry),
            **self._prompt(entry, settings),
            **dict(zip(self._numbers, numbers, strict=True)),
        }

    def choices(self, wanted: object) -> Updates:
        """The models that there are, and this one chosen where it is one of them."""
        import gradio as gr

        entries = self._shell.catalogue.entries()
        entry = next((entry for entry in entries if entry.key == wanted), entries[0])
        offered = [(entry.label, entry.key) for entry in entries]
        return {**self.show(_usual(entry)), self.model: gr.Dropdown(offered, value=entry.key, interactive=True)}

    def connect(self, status: Any) -> None:
        """Have the components follow each other; `status` is told what does not go."""
        outputs = [*self.outputs, status, self._shell.address]

        def chosen(sent: Updates) -> Updates:
            try:
                entry = self._shell.catalogue.find(sent[self.model])
            except UserError as error:
                return {status: line(error, True)}
            new = _usual(entry)
            if entry.system is None:  # what the person has set stays, but for a run's own
                _, old = self._or_usual(sent, entry)
                new = replace(old, persona=NONE if old.persona == OWN else old.persona)
            there = query("chat", {"model": entry.key, "chat": sent[self._state].chat})
            return {**self.show(new), self._shell.address: there}

        def became(sent: Updates) -> Updates:
            persona = sent[self._persona]
            try:
                entry = self._shell.catalogue.find(sent[self.model])
            except UserError as error:
                return {status: line(error, True)}
            told = sent[self._system_prompt] if isinstance(sent[self._system_prompt], str) else ""
            return self._prompt(entry, Settings(entry.key, persona, told))

        def look(sent: Updates) -> Updates:
            self._shell.catalogue.refresh()
            problems = " ".join(self._shell.catalogue.problems)
            entries = self._shell.catalogue.entries()
            found = f"{len(entries):,} model{'s' if len(entries) > 1 else ''}."
            offered = self.choices(sent[self.model])
            if any(entry.key == sent[self.model] for entry in entries):  # what the person has set stays
                offered = {self.model: offered[self.model]}
            return {**offered, status: line(problems or found, bool(problems))}

        sent = {*self.inputs, self._state}
        # In the browser, at once: an answer's own line may be there before the listener has ended.
        self.model.input(None, None, [status], js="() => ''")
        self.model.input(chosen, sent, outputs, **QUICK)
        self._persona.input(became, sent, outputs, **QUICK)
        self._refresh.click(look, sent, outputs, **QUICK)

    def _or_usual(self, sent: Updates, entry: Entry) -> tuple[Entry, Settings]:
        try:
            return self.read(sent)
        except UserError:  # a field is wrong at the moment; it is told when a question is asked
            return entry, _usual(entry)

    def _model(self, entry: Entry) -> Updates:
        decode = None if entry.system is None else entry.system.decode
        facts = ""
        if decode is not None:
            facts = f"The run decodes by {type(decode).__name__}; here one answer is drawn at a time."
        return {self.model: entry.key, self._facts: line(facts)}

    def _prompt(self, entry: Entry, settings: Settings) -> Updates:
        import gradio as gr

        own = {**dict(own_variables(settings.persona)), **dict(settings.values)}
        names = [*own, *[""] * SLOTS]
        about = (
            describe(settings.persona).partition(" Source: ")[0]
            if settings.persona in prompts_of("persona")
            else ""
        )
        if settings.persona == OWN and entry.system is not None:
            about = f"Each question is put as the prompt {entry.system.prompt.name} puts it."
            if entry.system.prompt.style == "text":
                about += " It is plain text for a base model: earlier questions are not sent."
        return {
            self._persona: gr.Dropdown(_personas(entry), value=settings.persona),
            self._about: line(about),
            self._system_prompt: gr.Textbox(settings.system_prompt, visible=settings.persona == NONE),
            **{
                slot: gr.Textbox(own.get(name, ""), label=name or "Unused", visible=bool(name))
                for slot, name in zip(self._slots, names, strict=False)
            },
        }


def _personas(entry: Entry | None) -> list[tuple[str, str]]:
    own = [] if entry is None or entry.system is None else [("The run's own prompt", OWN)]
    return [("None", NONE), *own, *((name, name) for name in prompts_of("persona"))]


def _usual(entry: Entry) -> Settings:
    """How a model is asked where nobody says: a run's as its System would be."""
    if entry.system is None or isinstance(entry.system.decode, LabelLikelihood):
        return Settings(entry.key)
    return Settings(entry.key, OWN, sampling=replace(entry.system.decode.sampling(), stop=()))
