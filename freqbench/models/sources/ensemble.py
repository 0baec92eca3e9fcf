"""Makes the mean of other models' probabilities one model: its network is those of its members."""

from collections.abc import Sequence

from freqbench.core.errors import UserError
from freqbench.models.entry import ENSEMBLE, ModelEntry
from freqbench.models.spec import ModelSpec


def resolve_ensemble(entry: ModelEntry, members: Sequence[ModelSpec]) -> ModelSpec:
    """Resolves the mean of other models' probabilities to a spec.

    Raises UserError if members have different windows or spaces, if they have different sliding windows and the job
    gives the ensemble none, or if a member is given twice, takes prompts or has a random defence.
    """
    first = members[0]
    for i, member in enumerate(members):
        if member.defence and member.defence.is_random:
            raise UserError(
                f"{entry.name}: ensemble: expected members without a random defence, got {member.name} with "
                f"{member.defence.name}: put the defence around the ensemble"
            )
        if member.is_prompted:
            raise UserError(
                f"{entry.name}: ensemble: expected members without prompts, got {member.name} with args.points: take "
                "networks without points"
            )
        if member.source.takes_volumes:
            raise UserError(f"{entry.name}: ensemble: expected networks, got {member.name}, a command: leave it out")
        if member.model_id in [other.model_id for other in members[:i]]:
            raise UserError(f"{entry.name}: ensemble: expected each member once, got {member.name} twice")
        for what in ("roi", "space") if entry.inference else ("roi", "space", "inference"):
            ours, theirs = getattr(first, what), getattr(member, what)
            if ours != theirs:
                raise UserError(
                    f"{entry.name}: expected members of the same {what}, got {ours} of {first.name} and {theirs} of "
                    f"{member.name}: state one for both"
                )
    return ModelSpec(
        name=entry.name,
        arch=ENSEMBLE,
        args={},
        roi=first.roi,
        num_classes=first.num_classes,
        head=first.head,
        checkpoint=" + ".join(member.name for member in members),
        checkpoint_sha256="",
        num_channels=first.num_channels,
        space=first.space,
        inference=entry.inference or first.inference,
        members=tuple(members),
        black_box=next((member.black_box for member in members if member.black_box), None),
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=entry.min_dice if any(member.min_dice for member in members) else 0.0,
    )
