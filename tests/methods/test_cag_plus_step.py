"""A whole step of CAG-plus against one written out in plain torch, and a row for every piece."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.mixing import Mixed
from cag_uda.adaptation.soft_labels import SoftLabels
from cag_uda.comparison.plan import last_trained, plan_ablation, plan_methods
from cag_uda.comparison.settings import choose, read_contenders, read_variants
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_settings import CAGPlusConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.teacher import statistics_follow
from cag_uda.recipes import load_recipe
from cag_uda.types import IGNORE, Batch
from tests.support.batches import make_batch, make_passes

SETTINGS = {
    "colour_transfer": True,
    "label_temperature": 0.5,
    "mix": {"jitter": 0.0, "blur_probability": 0.0, "half": "any"},
}


def enlarged(cells: Tensor) -> Tensor:
    return F.interpolate(cells, (32, 32), mode="bilinear", align_corners=False)


def target_log_probability(method: CAGPlus, batch: Batch) -> Tensor:
    """(B, K, h, w): the logarithm of the teacher's p(c | x)."""
    with torch.no_grad(), statistics_follow(method.teacher):
        scores: Tensor = method.teacher(batch.target.plain, "target").logits.log_softmax(1)
    return scores


def clear_cut(values: Tensor) -> tuple[float, Tensor]:
    """A threshold that no rounding moves a value across, and the share of values above it."""
    ordered = values.flatten().sort().values
    middle = ordered[len(ordered) // 4 : -len(ordered) // 4]
    place = int(middle.diff().argmax())
    least = middle[place : place + 2].mean()
    return least.item(), (values > least).float().mean()


def test_the_losses_of_a_step_are_those_written_out(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.dropout.p = 0.0
    method = CAGPlus(segmenter, CAGPlusConfig.model_validate(SETTINGS))
    method.prepare(make_passes())
    method.train()
    reference, batch = copy.deepcopy(method), make_batch(3)
    score = enlarged(target_log_probability(reference, batch))
    surest = score.softmax(1).amax(1)
    least, share = clear_cut(surest)
    method.config = method.config.model_copy(update={"confidence": least})
    given: list[tuple[Mixed, SoftLabels]] = []
    mix = method.mix

    def note(of: Batch, logits: Tensor) -> tuple[Mixed, SoftLabels]:
        nonlocal batch
        batch = of  # its source images are recoloured
        given.append(mix(of, logits))
        return given[-1]

    monkeypatch.setattr(method, "mix", note)  # what was drawn at random is looked at
    got: dict[str, Tensor] = {}
    for losses in method.losses(batch):
        got |= {name: loss.detach() for name, loss in losses.items()}
    ((mixed, _),) = given

    assert not batch.source.image.equal(make_batch(3).source.image)
    label = batch.source.label
    _, logits = reference.segmenter(batch.source.image, "source")
    expected = {"source/ce": F.cross_entropy(enlarged(logits), label, ignore_index=IGNORE)}

    is_pasted = mixed.label != IGNORE
    for place in range(2):
        pasted = mixed.label[place][is_pasted[place]].unique()
        assert len(pasted) == 2, "half of four classes"
        assert is_pasted[place].equal(torch.isin(label[place], pasted))
    assert mixed.label[is_pasted].equal(label[is_pasted])
    certain = F.one_hot(torch.where(is_pasted, label, 0), 4).movedim(-1, 1).float()
    wanted = torch.where(is_pasted[:, None], certain, (score / 0.5).softmax(1))
    weight = torch.where(is_pasted, 1.0, share)

    _, logits = reference.segmenter(mixed.image, "target")
    log_probability = enlarged(logits).log_softmax(1)
    expected["mixed/ce"] = -(weight * (wanted * log_probability).sum(1)).mean()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value.detach(), rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["cag-plus-camvid-day-dusk", "cag-plus-gta5-cityscapes"])
def test_every_piece_has_a_row_without_it_or_with_it(name: str) -> None:
    recipe = load_recipe(name)
    (base,) = plan_methods(recipe, choose(read_contenders(), ["cag-plus"]))
    entries = plan_ablation(base, read_variants(base="cag-plus"))
    own = last_trained(base.recipe.stages).method.model_dump()
    changed: set[str] = set()
    sampling = "rare_class_temperature"  # A matter of the loader.
    for entry in entries:
        method = last_trained(entry.recipe.stages).method.model_dump()
        changed |= {key for key in own if method[key] != own[key]}
        if getattr(entry.recipe.loading, sampling) != getattr(recipe.loading, sampling):
            changed.add(sampling)
    pieces = {*CAGPlusConfig.model_fields, sampling} - {"name"}
    if not own["initial"]["weight"]:
        pieces -= {"initial"}  # Taken out already.
        assert next(e.run for e in entries if e.name == "initial-none") == "cag-plus"
    assert changed == pieces
