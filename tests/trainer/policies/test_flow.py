"""The flow policy: units and normalisation, the untrained critic, what it can learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_flow import make_config, make_examples, make_policy

from trainer.policies.chance import Chance
from trainer.policies.flow import FlowHead
from trainer.policies.noise import FeatureNoise


def _features(policy, count: int = 3) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        return policy.trunk(*(torch.from_numpy(a) for a in make_examples(count).values()))


def test_the_last_features_are_the_normalised_state() -> None:
    policy = make_policy()
    features = _features(policy)
    state = torch.from_numpy(make_examples()["state"])
    expected = (state - policy.trunk.state_mean) / policy.trunk.state_std
    assert torch.equal(features[:, -6:], expected)


def test_what_the_trunk_tells_reaches_the_head_exactly() -> None:
    policy = make_policy()
    with torch.no_grad():
        policy.trunk.tell[-1].weight.zero_()
        policy.trunk.tell[-1].bias.copy_(torch.arange(12.0))
    place, reach = policy.trunk.told(_features(policy))
    assert place.tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    assert reach.tolist() == [[6, 7, 8, 9, 10, 11]] * 3


def test_noise_falls_on_each_kind_of_feature_as_it_was_asked_for() -> None:
    policy = make_policy()
    features = torch.randn(200, policy.config.features)
    noise = FeatureNoise(mixed=0.0, told=0.5, points=0.0, state=0.0)
    told = noise.scales(features, policy.config)
    (found,) = torch.nonzero(told, as_tuple=True)
    begin = policy.config.features - policy.config.unmixed
    assert found.tolist() == list(range(begin, begin + 12))
    torch.testing.assert_close(told[found], 0.5 * features.std(0)[found])
    everywhere = FeatureNoise(0.8, 0.05, 0.2, 0.15).scales(features, policy.config)
    assert (everywhere > 0).all() and everywhere[-6:].tolist() == pytest.approx([0.15] * 6)


def test_normalised_chunks_come_back_in_arm_units() -> None:
    policy = make_policy()
    features = _features(policy)
    chunk = torch.randn(3, 4, 6) * 10
    chunk[..., 5] = chunk[..., 5].abs()
    back = policy.head.denormalise(features, policy.head.normalise(features, chunk))
    torch.testing.assert_close(back, chunk, atol=1e-3, rtol=1e-4)


def test_arms_follow_the_state_and_the_gripper_does_not() -> None:
    policy = make_policy()
    features = _features(policy, 1)
    moved = features.clone()
    moved[:, -6:] += 0.3
    still = torch.zeros(1, 24)
    difference = policy.head.denormalise(moved, still) - policy.head.denormalise(features, still)
    shift = 0.3 * policy.trunk.state_std[:5]
    torch.testing.assert_close(difference[0, :, :5], shift.expand(4, 5), atol=1e-3, rtol=1e-3)
    assert difference[0, :, 5].abs().max() == 0


def test_chunks_stay_inside_the_action_limits() -> None:
    policy = make_policy()
    chunks = policy.head.denormalise(_features(policy, 1), torch.full((1, 24), 1e6))
    assert torch.equal(chunks[0, 0], policy.head.high)


def test_an_untrained_critic_prefers_nothing() -> None:
    policy = make_policy()
    with torch.no_grad():
        _, values, choice = policy.head(_features(policy, 1), torch.randn(16, 4, 6))
    assert len(set(values.tolist())) == 1 and choice.tolist() == [0]


def _value(logits: list[list[float]], pessimism: float) -> list[float]:
    """Values where each row is one critic's opinion of each chunk."""
    head = FlowHead(make_config(pessimism=pessimism)).eval()
    head.critic_logits = lambda features, chunk: torch.tensor(logits)  # type: ignore[method-assign]
    with torch.no_grad():
        return head.value(torch.zeros(1, 24), torch.zeros(len(logits[0]), 24)).tolist()


def test_pessimism_lowers_the_value_of_a_chunk_that_critics_disagree_on() -> None:
    disputed = [[0.0] * 7 + [opinion] for opinion in (-1.0, 0.0, 1.0)]
    assert _value(disputed, 0.0) == pytest.approx([0.5] * 8)
    *agreed, other = _value(disputed, 1.0)
    assert other < min(agreed) - 0.1


def test_pessimism_ignores_disagreement_about_the_situation() -> None:
    assert _value([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]], 1.0) == pytest.approx([0.5, 0.5])


def test_flow_learns_two_modes_and_samples_both() -> None:
    """What a plain regression can't: half of the demonstrations go left, half go right."""
    torch.manual_seed(0)
    policy = make_policy(hidden=64, flow_steps=8)
    head = policy.head
    features = _features(policy, 1).repeat(64, 1)
    side = torch.where(torch.arange(64) % 2 == 0, 8.0, -8.0)
    state = make_examples(1)["state"]
    chunk = torch.from_numpy(np.repeat(state[:, None], 4, 1)).repeat(64, 1, 1)
    chunk[..., 0] += side[:, None]
    optimiser = torch.optim.Adam(head.flow.parameters(), 4e-3)
    generator = torch.Generator().manual_seed(0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 800)
    for _ in range(800):
        loss = head.flow_loss(features, chunk, Chance(generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    with torch.no_grad():
        chunks, _, _ = head(features[:1], torch.randn(64, 4, 6, generator=generator))
    offset = chunks[:, :, 0].mean(1) - float(state[0, 0])
    near = ((offset.abs() - 8.0).abs() < 3.0).float().mean()
    assert near > 0.8 and 0.2 < (offset > 0).float().mean() < 0.8


def test_word_order_matters_to_the_instruction_encoder() -> None:
    encoder = make_policy().trunk.instruction
    forward = encoder(torch.tensor([[2, 3, 4, 2, 4, 3]]))
    backward = encoder(torch.tensor([[3, 2, 4, 3, 4, 2]]))
    assert (forward - backward).abs().max() > 1e-4


def test_padding_does_not_change_the_phrase() -> None:
    encoder = make_policy().trunk.instruction
    short, long = torch.tensor([[2, 3, 4]]), torch.tensor([[2, 3, 4, 0, 0, 0]])
    torch.testing.assert_close(encoder(short), encoder(long))


@pytest.mark.parametrize("changes", [{"blocks": 2}, {"critics": 5}, {"chunk_length": 8}])
def test_configs_survive_a_package_round_trip(changes: dict[str, int]) -> None:
    from trainer.policies.flow import settings_of

    settings = settings_of(make_config(**changes))
    assert settings["relative_bits"] == 31.0
    assert all(isinstance(value, float) for value in settings.values())
