"""Anchors adapted by EM: against plain loops, on Gaussians that were moved, and over processes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cag_uda.adaptation.adapted_anchors import (
    AdaptedAnchors,
    FeatureSample,
    SourceFeatures,
    pool,
)
from cag_uda.errors import ShapeError, UserError
from cag_uda.types import IGNORE

K, D = 3, 5
CENTRES = torch.tensor([[0.0, 0, 0, 0, 0], [3, 0, 0, 0, 1], [0, 4, -1, 0, 0]])
SPREAD = torch.tensor([1.0, 0.5, 1.0, 2.0, 0.7])
SHARES = torch.tensor([0.6, 0.3, 0.1])


def same(tensor: Tensor) -> Tensor:
    return tensor


def drawn(shares: Tensor, centres: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (1, D, count / 50, 50) of Gaussians around centres, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.multinomial(shares, count, replacement=True, generator=generator)
    features = centres[label] + SPREAD * torch.randn(count, D, generator=generator)
    return features.t().reshape(1, D, -1, 50), label.reshape(1, -1, 50)


def of_source(features: Tensor, label: Tensor, num_classes: int = K) -> SourceFeatures:
    source = SourceFeatures(num_classes, features.shape[1], features.device)
    source.update(features, label)
    return source


def fitted(features: Tensor, label: Tensor, num_classes: int = K) -> AdaptedAnchors:
    anchors = AdaptedAnchors(num_classes, features.shape[1])
    anchors.fit(of_source(features, label, num_classes), same)
    return anchors


def sample_of(
    features: Tensor, logits: Tensor | None = None, num_classes: int = K
) -> FeatureSample:
    """Features of the target and the classifier's logits; None: one that knows nothing."""
    if logits is None:
        logits = torch.zeros(len(features), num_classes, *features.shape[2:])
    sample = FeatureSample()
    sample.update(torch.cat([features, logits], dim=1))
    return sample


def classified(features: Tensor) -> Tensor:
    """Logits of a classifier that was trained on the source."""
    anchors = fitted(*drawn(SHARES, CENTRES, 5_000, seed=7))
    return anchors.log_likelihood(features) + SHARES.log()[:, None, None]


def test_fit_gives_means_covariance_shares_and_a_likelihood_by_hand() -> None:
    features, label = drawn(SHARES, CENTRES, 5_000)
    label[0, :2] = IGNORE
    anchors = fitted(features, label)
    rows, classes = features[0].flatten(1).t(), label.flatten()
    means = torch.stack([rows[classes == k].mean(0) for k in range(K)])
    known = classes != IGNORE
    around = rows[known] - means[classes[known]]
    covariance = around.t() @ around / len(around)
    torch.testing.assert_close(anchors.source, means, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(anchors.covariance, covariance, rtol=1e-4, atol=1e-4)
    assert anchors.source_share.sum() == pytest.approx(1)
    # Gaussians they are: no temperature is needed, and the grid holds 1.
    assert float(anchors.temperature) == pytest.approx(1.0, abs=0.15)
    inverse = (covariance + 0.05 * covariance.diagonal().mean() * torch.eye(D)).inverse()
    scores = anchors.log_likelihood(features)[0].flatten(1).t().softmax(1)
    for n in range(0, len(rows), 997):
        apart = [rows[n] - means[k] for k in range(K)]
        logs = [-float(each @ inverse @ each) / (2 * float(anchors.temperature)) for each in apart]
        expected = torch.tensor(logs).softmax(0)
        torch.testing.assert_close(scores[n], expected, rtol=1e-3, atol=1e-4)


def test_channels_that_repeat_others_count_once() -> None:
    features, label = drawn(SHARES, CENTRES, 5_000)
    once, often = fitted(features, label), fitted(features.repeat(1, 8, 1, 1), label)
    assert float(often.temperature) == pytest.approx(1.0, abs=0.2)
    one = once.log_likelihood(features).softmax(1)
    other = often.log_likelihood(features.repeat(1, 8, 1, 1)).softmax(1)
    torch.testing.assert_close(one, other, rtol=0, atol=0.1)


def test_labels_that_are_wrong_at_times_raise_the_temperature() -> None:
    features, label = drawn(SHARES, 4 * CENTRES, 5_000)
    generator = torch.Generator().manual_seed(1)
    is_wrong = torch.rand(label.shape, generator=generator) < 0.02
    assert float(fitted(features, label).temperature) == pytest.approx(1.0, abs=0.15)
    assert float(fitted(features, label.masked_fill(is_wrong, 0)).temperature) > 2


def test_em_is_the_loop_that_the_docstring_tells() -> None:
    anchors = fitted(*drawn(SHARES, CENTRES, 2_000))
    features, _ = drawn(torch.tensor([0.3, 0.3, 0.4]), CENTRES + 0.5, 1_000, seed=1)
    logits = classified(features)
    anchors.adapt(sample_of(features, logits), same, rounds=3)

    rows = features[0].flatten(1).t().double()
    classifier = logits[0].flatten(1).t().double().softmax(1)
    own, share = anchors.source.double(), anchors.source_share.double()
    q = classifier
    for _ in range(3):
        vectors, scatter = torch.zeros(K, D).double(), torch.zeros(D, D).double()
        for k in range(K):
            held = 1_000 * share[k]
            vectors[k] = ((q[:, k : k + 1] * rows).sum(0) + held * own[k]) / (q[:, k].sum() + held)
        for k in range(K):
            for n in range(len(rows)):
                apart = rows[n] - vectors[k]
                scatter += q[n, k] * torch.outer(apart, apart)
            apart = own[k] - vectors[k]
            scatter += 1_000 * share[k] * (anchors.source_covariance + torch.outer(apart, apart))
        covariance = scatter / 2_000
        ridge = 0.05 * covariance.diagonal().mean() * torch.eye(D)
        inverse = (covariance + ridge).inverse()
        apart = rows[:, None] - vectors
        squares = torch.einsum("nkd,de,nke->nk", apart, inverse, apart)
        q = classifier * (-squares / (2 * float(anchors.temperature))).exp()
        q = q / q.sum(1, keepdim=True)
    torch.testing.assert_close(anchors.vectors.double(), vectors, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(anchors.covariance.double(), covariance, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(anchors.share.double(), q.mean(0), rtol=1e-3, atol=1e-3)


def test_em_finds_moved_centres_and_other_shares() -> None:
    moved, shares = CENTRES + torch.tensor([0.8, -0.8, 0.5, 0.0, 0.3]), [0.2, 0.3, 0.5]
    anchors = fitted(*drawn(SHARES, CENTRES, 20_000))
    features, label = drawn(torch.tensor(shares), moved, 20_000, seed=1)
    logits = classified(features)
    right = [
        float((each.argmax(1) == label).float().mean())
        for each in (logits, pool(logits, anchors.log_likelihood(features)))
    ]
    anchors.adapt(sample_of(features, logits), same, rounds=20)
    right.append(
        float((pool(logits, anchors.log_likelihood(features)).argmax(1) == label).float().mean())
    )
    assert right[2] > max(right[:2]) + 0.005
    # The source's pixels hold each anchor back by their share of its class.
    apart = moved - CENTRES
    way = ((anchors.vectors - CENTRES) * apart).sum(1) / apart.square().sum(1)
    expected = torch.tensor(shares) / (torch.tensor(shares) + SHARES)
    torch.testing.assert_close(way, expected, rtol=0, atol=0.1)
    torch.testing.assert_close(anchors.share, torch.tensor(shares), rtol=0, atol=0.06)


def test_em_does_no_harm_where_source_and_target_are_one() -> None:
    anchors = fitted(*drawn(SHARES, CENTRES, 20_000))
    features, label = drawn(SHARES, CENTRES, 20_000, seed=1)
    logits = classified(features)
    right = [(logits.argmax(1) == label).float().mean()]
    anchors.adapt(sample_of(features, logits), same)
    right.append((anchors.log_likelihood(features).argmax(1) == label).float().mean())
    assert right[1] > right[0] - 0.02
    torch.testing.assert_close(anchors.share, anchors.source_share, rtol=0, atol=0.02)
    assert (anchors.vectors - anchors.source).abs().max() < 0.15


def test_a_class_that_the_source_never_shows_is_never_assigned() -> None:
    features, label = drawn(torch.tensor([0.5, 0.5, 0.0]), CENTRES, 2_000)
    anchors = fitted(features, label)
    target, _ = drawn(SHARES, CENTRES, 2_000, seed=1)
    anchors.adapt(sample_of(target), same)
    scores = anchors.log_likelihood(target)
    assert scores.isfinite().all(), "resizing must not meet infinity"
    assert int(scores.argmax(1).max()) == 1
    assert int(pool(torch.zeros_like(scores), scores).argmax(1).max()) == 1
    assert anchors.vectors.isfinite().all()


def test_sharing_a_sweep_between_processes_changes_nothing() -> None:
    """Two halves of source and target, whose sums are exchanged, give the anchors of the whole."""
    features, label = drawn(SHARES, CENTRES, 4_000)
    target, _ = drawn(SHARES, CENTRES + 0.4, 4_000, seed=1)
    whole = fitted(features, label)
    whole.adapt(sample_of(target), same)

    halves = [of_source(features[:, :, half::2], label[:, half::2]) for half in (0, 1)]
    samples = [sample_of(target[:, :, half::2]) for half in (0, 1)]
    both = [AdaptedAnchors(K, D), AdaptedAnchors(K, D)]
    in_step(lambda rank, reduce: halves[rank].reduce(reduce))
    in_step(lambda rank, reduce: both[rank].fit(halves[rank], reduce))
    in_step(lambda rank, reduce: both[rank].adapt(samples[rank], reduce))
    for one in both:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-4, atol=1e-4)


def in_step(work: Callable[[int, Callable[[Tensor], Tensor]], None]) -> None:
    """Do the work of two processes in two threads that exchange sums."""
    import threading

    barrier, given = threading.Barrier(2), [torch.empty(0), torch.empty(0)]

    def reducer(rank: int) -> Callable[[Tensor], Tensor]:
        def reduce(tensor: Tensor) -> Tensor:
            given[rank] = tensor.clone()
            barrier.wait(20)
            total = given[0] + given[1]
            barrier.wait(20)
            return total

        return reduce

    threads = [threading.Thread(target=work, args=(rank, reducer(rank))) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_sample_is_bounded_and_every_pixel_as_likely() -> None:
    sample = FeatureSample(capacity=1_000)
    for start in range(0, 30_000, 750):
        sample.update(torch.arange(start, start + 750.0).reshape(1, 1, 15, 50))
    rows, _ = sample.rows(1, torch.zeros(1))
    assert 500 <= len(rows) <= 1_000
    assert len(rows.unique()) == len(rows)
    tenths = torch.histc(rows, bins=10, min=0, max=30_000) / len(rows)
    assert float((tenths - 0.1).abs().max()) < 0.03
    again = FeatureSample(capacity=1_000)
    for start in range(0, 30_000, 750):
        again.update(torch.arange(start, start + 750.0).reshape(1, 1, 15, 50))
    assert again.rows(1, torch.zeros(1))[0].equal(rows), "a resumed run samples the same pixels"


def test_a_process_without_images_gives_its_zeros() -> None:
    """Where there are fewer images than processes; the others' sums are exchanged all the same."""
    anchors, source = AdaptedAnchors(K, D), SourceFeatures(K, D, torch.device("cpu"))
    whole = of_source(*drawn(SHARES, CENTRES, 1_000))
    source.anchors.load_state_dict(whole.anchors.state_dict())
    anchors.fit(source, same)
    anchors.adapt(FeatureSample(), same)
    assert anchors.vectors.equal(anchors.source)


def test_a_sample_leaves_out_unlabelled_pixels() -> None:
    features, label = drawn(SHARES, CENTRES, 1_000)
    label[:, ::2] = IGNORE
    sample = FeatureSample()
    sample.update(features, label)
    rows, classes = sample.rows(D, features)
    assert rows.shape == (500, D)
    assert set(classes.unique().tolist()) == {0, 1, 2}
    empty, none = FeatureSample().rows(D, features)
    assert (empty.shape, none.shape) == ((0, D), (0,))


def test_the_likelihood_is_right_far_from_the_origin_and_in_half_precision() -> None:
    features, label = drawn(SHARES, CENTRES, 2_000)
    near, far = fitted(features, label), fitted(features + 1_000, label)
    expected = near.log_likelihood(features).softmax(1)
    got = far.log_likelihood(features + 1_000).softmax(1)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-2)
    weight, bias = near.linear()
    linear = torch.einsum("kd,bdhw->bkhw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(linear.softmax(1), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert near.log_likelihood(features).softmax(1).equal(expected)


def test_pool_has_the_argmax_of_the_product_and_its_root_as_confidence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, scores = torch.randn(2, 2, K, 4, 5, generator=generator)
    product = (logits.softmax(1) * scores.softmax(1)).sqrt()
    torch.testing.assert_close(pool(logits, scores).softmax(1), product / product.sum(1, True))
    with pytest.raises(ShapeError, match="one grid"):
        pool(logits, scores[:, :2])


def test_the_posterior_is_the_likelihood_weighed_by_the_class_shares() -> None:
    features, label = drawn(SHARES, CENTRES, 2_000)
    anchors = fitted(features, label)
    expected = anchors.log_likelihood(features).softmax(1) * anchors.share[:, None, None]
    expected /= expected.sum(1, True)
    torch.testing.assert_close(anchors.log_posterior(features).softmax(1), expected)
    unseen = fitted(features, label, K + 1).log_posterior(features)
    assert unseen.isfinite().all()
    assert not (unseen.argmax(1) == K).any()


def test_a_classifier_that_learns_the_pooled_labels_keeps_the_class_shares() -> None:
    """By the likelihood alone it unlearns them: a teacher's labels are learnt at every step."""
    shares = torch.tensor([0.88, 0.1, 0.02])
    features, label = drawn(shares, CENTRES / 2, 20_000)
    anchors = fitted(features, label)
    start = anchors.log_posterior(features)
    anchors.adapt(sample_of(features, start), same)

    def change(of_anchors: Tensor) -> float:
        logits = start
        for _ in range(20):
            logits = pool(logits, of_anchors)
        return float((logits.softmax(1).mean(dim=(0, 2, 3)) - shares).abs().sum())

    kept, lost = map(change, (anchors.log_posterior(features), anchors.log_likelihood(features)))
    assert lost > 0.3
    assert kept < lost / 4


def test_wrong_shapes_and_a_source_without_labels_are_refused() -> None:
    features, label = drawn(SHARES, CENTRES, 1_000)
    with pytest.raises(UserError, match="no labelled pixel"):
        fitted(features, torch.full_like(label, IGNORE))
    with pytest.raises(ShapeError, match="want features"):
        fitted(features, label).log_likelihood(features[:, :2])
    with pytest.raises(ShapeError, match="not on the grid"):
        FeatureSample().update(features, label[:, :2])


def test_ids_that_are_no_class_are_left_out() -> None:
    features, label = drawn(SHARES, CENTRES, 2_000)
    odd, ignored = label.clone(), label.clone()
    odd[:, ::3], ignored[:, ::3] = K + 4, IGNORE
    got, expected = fitted(features, odd), fitted(features, ignored)
    for name, value in expected.state_dict().items():
        assert got.state_dict()[name].equal(value), name


def test_labelled_pixels_of_the_target_move_the_anchors_of_their_classes() -> None:
    source = drawn(SHARES, CENTRES, 5_000)
    target, label = drawn(SHARES, CENTRES + 1.0, 5_000, seed=1)
    few = FeatureSample()
    shown = torch.where(label == 2, label, IGNORE)
    few.update(target[:, :, :20], shown[:, :20])
    logits = classified(target)
    anchors, without = fitted(*source), fitted(*source)
    without.adapt(sample_of(target, logits), same)
    anchors.adapt(sample_of(target, logits), same, rounds=1, labelled=few, labelled_weight=3.0)

    plain = fitted(*source)
    rows = target[0].flatten(1).t()
    q = logits[0].flatten(1).t().softmax(1)[:, 2]
    known = rows[:1000][(shown[:, :20].flatten() == 2)]
    held = len(rows) * plain.source_share[2]
    sums = (q[:, None] * rows).sum(0) + held * plain.source[2] + 3.0 * known.sum(0)
    expected = sums / (q.sum() + held + 3.0 * len(known))
    torch.testing.assert_close(anchors.vectors[2], expected, rtol=1e-4, atol=1e-4)
    truth = CENTRES + 1.0
    anchors.adapt(sample_of(target, logits), same, labelled=few)
    apart = [(each.vectors[2] - truth[2]).norm() for each in (anchors, without)]
    assert apart[0] < apart[1]


def test_anchors_are_the_same_to_the_last_bit_without_a_labelled_pixel() -> None:
    source, target = drawn(SHARES, CENTRES, 5_000), drawn(SHARES, CENTRES + 0.5, 5_000, seed=1)[0]
    one, other = fitted(*source), fitted(*source)
    one.adapt(sample_of(target), same)
    other.adapt(sample_of(target), same, labelled=FeatureSample())
    assert one.vectors.equal(other.vectors)
