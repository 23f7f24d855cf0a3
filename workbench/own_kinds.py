"""Adapters of kinds that PEFT has none of: bottlenecks (Houlsby), biases (BitFit), a classification head.

Each is put into a model (transformers) in place, freezes everything else, and notes on the model what it is, so
that `adapters.py` can write it. Trained weights are float32, whatever the model's own are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workbench.errors import UserError

HOULSBY, BITFIT, HEAD = "HOULSBY", "BITFIT", "CLASSIFICATION_HEAD"
OWN_KINDS = (HOULSBY, BITFIT, HEAD)  # as adapter_config.json names them, where other tools read their own kinds
WIDEST = 65_536  # of a bottleneck


def put_in(weights: Any, config: dict[str, Any]) -> None:
    """Put into a model what an adapter_config.json of one of these kinds tells; its values are still to be filled.

    Raises:
        ValueError: a field of the configuration cannot be; it says which.
        UserError: the model has no place for it.
    """
    kind = config["peft_type"]
    if kind == HOULSBY:
        width = config.get("bottleneck")
        if type(width) is not int or not 1 <= width <= WIDEST:
            raise ValueError(f"its bottleneck is {width!r}, not a whole number from 1 to {WIDEST}")
        add_bottlenecks(weights, width, dtype=weights.dtype)
    elif kind == BITFIT:
        free_biases(weights)
    else:
        labels = config.get("labels")
        names = [label for label in labels if isinstance(label, str)] if isinstance(labels, list) else []
        if names != labels or len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"its labels are {labels!r:.80}, not two or more different names")
        add_head(weights, names)


def own_config(weights: Any) -> dict[str, Any]:
    """The adapter_config.json of what was put into a model; empty where nothing was."""
    config: dict[str, Any] = getattr(weights, "workbench_adapter", {})
    return config


def own_parameters(weights: Any) -> dict[str, Any]:
    """The parameters that are such an adapter, by name; none where nothing was put into the model."""
    kind = own_config(weights).get("peft_type")
    if kind == HEAD:
        head = weights.get_output_embeddings().weight
        return {name: weight for name, weight in weights.named_parameters() if weight is head}
    if kind == BITFIT:
        return {name: weight for name, weight in weights.named_parameters() if name.endswith(".bias")}
    return {name: weight for name, weight in weights.named_parameters() if kind and ".bottleneck." in name}


# --- bottlenecks --------------------------------------------------------------------------------------


def add_bottlenecks(weights: Any, width: int, *, seed: int = 0, dtype: Any = None) -> None:
    """Put two bottlenecks into every layer (Houlsby et al. 2019, arXiv 1902.00751, §2.1).

    Behind the attention's and the feed-forward's output projection, before the residual addition, y becomes
    y + W_up·GELU(W_down·y + b_down) + b_up: 2md + m + d parameters. W_up and the biases start at zero, so that the
    model starts as it was; W_down starts as §3.6 has it, normal with σ = 0.01, cut at 2σ.

    Args:
        weights: the model.
        width: m.
        seed: of W_down.
        dtype: torch's; by default float32.

    Raises:
        UserError: the architecture's output projections cannot be found.
    """
    from collections import OrderedDict

    import torch

    hidden = weights.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(seed)
    weights.requires_grad_(False)
    for projection in output_projections(weights):
        down, up = torch.nn.Linear(hidden, width), torch.nn.Linear(width, hidden)
        torch.nn.init.trunc_normal_(down.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
        for zero in (down.bias, up.weight, up.bias):
            torch.nn.init.zeros_(zero)
        bottleneck = torch.nn.Sequential(OrderedDict(down=down, activation=torch.nn.GELU(), up=up))
        projection.bottleneck = bottleneck.to(weights.device, dtype)
        projection.register_forward_hook(_through_bottleneck)
    weights.workbench_adapter = {"peft_type": HOULSBY, "bottleneck": width}


def _through_bottleneck(projection: Any, given: Any, said: Any) -> Any:
    inner = projection.bottleneck(said.to(projection.bottleneck.up.weight.dtype))
    return said + inner.to(said.dtype)


def output_projections(weights: Any) -> list[Any]:
    """The linear layers whose outputs the layers add to the residual stream, two a layer, in order.

    They are told by what they do: one token is passed through the model, and the tensor that comes out of such a
    layer is what comes out of the part (attention, feed-forward) that it belongs to.

    Raises:
        UserError: there are not two in every layer, as where experts' outputs are mixed.
    """
    import torch

    config = weights.config.get_text_config()
    lists = [part for part in weights.get_decoder().children() if isinstance(part, torch.nn.ModuleList)]
    layers = next((part for part in lists if len(part) == config.num_hidden_layers), ())
    said: dict[Any, Any] = {}

    def note(module: Any, given: Any, out: Any) -> None:
        said[module] = out[0] if isinstance(out, tuple) else out

    hooks = [module.register_forward_hook(note) for layer in layers for module in layer.modules()]
    training = weights.training
    weights.eval()
    with torch.no_grad():
        weights(input_ids=torch.zeros(1, 1, dtype=torch.long, device=weights.device), use_cache=False)
    weights.train(training)
    for hook in hooks:
        hook.remove()

    def ends(part: Any, module: Any) -> bool:
        matrix = getattr(module, "weight", None)
        if matrix is None or matrix.ndim != 2 or part not in said or module not in said:
            return False
        own, whole = said[module], said[part]
        return bool(own.shape[-1] == config.hidden_size and own.data_ptr() == whole.data_ptr())

    found = [[m for part in layer.children() for m in part.modules() if ends(part, m)] for layer in layers]
    if not found or any(len(pair) != 2 for pair in found):
        raise UserError(
            f"The architecture {weights.config.model_type!r} does not show, in each of its layers, the two linear "
            "layers whose outputs join the residual stream, and bottlenecks go behind these. Use `workbench lora`."
        )
    return [projection for pair in found for projection in pair]


# --- biases -------------------------------------------------------------------------------------------


def free_biases(weights: Any) -> None:
    """Freeze all but the biases (Ben-Zaken et al. 2022, arXiv 2106.10199), the norms' among them.

    Raises:
        UserError: the model has none.
    """
    weights.requires_grad_(False)
    weights.workbench_adapter = {"peft_type": BITFIT}
    biases = own_parameters(weights).values()
    if not biases:
        raise UserError(
            f"BitFit trains a model's biases and nothing else, and this model ({weights.config.model_type}) has "
            "none, like every Llama. `workbench lora`, `adapters` and `prompt_tuning` work on it."
        )
    for bias in biases:
        bias.requires_grad_(True)


# --- a classification head ----------------------------------------------------------------------------


def add_head(weights: Any, labels: Sequence[str], *, seed: int = 0) -> None:
    """Put a head, a linear layer of one row a label without bias, into the place of the model's output layer.

    The model's logits are then scores of the labels, in their order. Tied input embeddings stay what they are.
    """
    import torch

    config = weights.config.get_text_config()
    instead = weights.get_output_embeddings()
    head: Any = torch.nn.Linear(config.hidden_size, len(labels), bias=False)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(head.weight, std=0.02, generator=generator)  # what transformers starts such heads with
    head.register_forward_pre_hook(_as_float32)
    head.instead = (instead,)  # in a tuple, so that it is no part of the model
    weights.requires_grad_(False)
    weights.set_output_embeddings(head.to(weights.device))
    weights.workbench_adapter = {"peft_type": HEAD, "labels": list(labels)}


def _as_float32(head: Any, given: Any) -> Any:
    # Of two labels' scores in bfloat16, one in some hundred would be equal.
    return (given[0].float(),)


def labels_of(weights: Any) -> tuple[str, ...]:
    """What a model's head scores, in order; none where it has no head."""
    return tuple(own_config(weights).get("labels", ()))


@contextmanager
def without_head(weights: Any) -> Iterator[None]:
    """Within the block a model with a head has its own output layer; any other model is as it is."""
    if not labels_of(weights):
        yield
        return
    head = weights.get_output_embeddings()
    weights.set_output_embeddings(head.instead[0])
    try:
        yield
    finally:
        weights.set_output_embeddings(head)
