"""Hand a request on to another provider's actor."""

from __future__ import annotations

from attrs import evolve

from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.workforce import tell
from aigateway.actors.tree import ActorTree, provider_role

__all__ = ["hand_on"]


def hand_on(job: Job, own: ProviderConfig, tree: ActorTree | None) -> bool:
    """Let the fallback of ``own`` answer the job's request, if somebody is there to do it.

    The request remembers who has handed it on, so it never comes back.
    """
    name = own.fallback
    perform = job.perform
    if tree is None or name == own.name or name in perform.visited:
        return False
    ref = tree.find(provider_role(name))
    other = tree.provider_config(name)
    if ref is None or (other is not None and not _can_stand_in(other, own)):
        return False
    handed_on = evolve(
        perform,
        visited=(*perform.visited, own.name),
        deadline=job.deadline,
        sent=job.sent,
        begun_at=job.begun_at,
    )
    return tell(ref, handed_on)


def _can_stand_in(other: ProviderConfig, own: ProviderConfig) -> bool:
    """Whether ``other`` can answer a request that was made for ``own``.

    Copilot is called with the user's own token only.
    """
    return (
        bool(other.keys or other.bedrock)
        and other.error is None
        and own.speaks_openai == other.speaks_openai
        and "copilot" not in (own.type, other.type)
    )
