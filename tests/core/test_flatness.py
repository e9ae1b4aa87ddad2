from random import Random

from tests.soak.flatness import trend


def samples(rise: float, *, seed: int = 1, count: int = 360, noise: float = 3.0) -> list[dict[str, float]]:
    """An hour of a figure that rises so much in the judged part, beside documents that grow and go (a saw)."""
    rng = Random(seed)
    found = []
    for number in range(count):
        saw = number % 25
        found.append(
            {
                "seconds": number * 10.0,
                "saw": float(saw),
                "figure": 100 + rise * number / (0.75 * count) + 2 * saw + rng.gauss(0, noise),
            }
        )
    return found


def test_a_leak_is_seen_beside_what_is_explained() -> None:
    for seed in range(20):
        found = trend(samples(12, seed=seed), "figure", "saw")
        assert found.exceeds(5)
        assert abs(found.rise - 12) < 4
        assert trend(samples(12, seed=seed), "figure").error > found.error


def test_what_goes_up_and_down_is_flat() -> None:
    for seed in range(20):
        assert not trend(samples(0, seed=seed), "figure", "saw").exceeds(1)
        assert not trend(samples(0, seed=seed), "figure").exceeds(5)


def test_what_the_documents_explain_is_no_leak() -> None:
    grows = [{**sample, "saw": sample["saw"] + number} for number, sample in enumerate(samples(0))]
    for number, sample in enumerate(grows):
        sample["figure"] += 2 * number
    found = trend(grows, "figure", "saw")
    assert not found.exceeds(5)
    assert found.explained > 400


def test_few_samples_have_large_errors() -> None:
    few, many = trend(samples(0, count=48), "figure", "saw"), trend(samples(0), "figure", "saw")
    assert few.error > 2 * many.error


def test_neighbours_that_are_alike_count_less() -> None:
    rng, level = Random(1), 0.0
    wandering = []
    for number in range(360):
        level = 0.9 * level + rng.gauss(0, 1)
        wandering.append({"seconds": number * 10.0, "figure": level})
    shuffled = [sample["figure"] for sample in wandering]
    rng.shuffle(shuffled)
    mixed = [{**sample, "figure": value} for sample, value in zip(wandering, shuffled, strict=True)]
    assert trend(wandering, "figure").error > 2 * trend(mixed, "figure").error
