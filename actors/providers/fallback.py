"""Hand a request on to another provider's actor."""

from __future__ import annotations

import structlog
from attrs import evolve

from aigateway.actors.providers.config import ProviderConfig
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.served import can_stand_in
from aigateway.actors.providers.workforce import tell
from aigateway.actors.tree import ActorTree, provider_role

__all__ = ["hand_on"]

log = structlog.get_logger("ai-gateway.provider")


def hand_on(job: Job, own: ProviderConfig, tree: ActorTree | None) -> bool:
    """Let a fallback of ``own`` answer the job's request, if somebody is there who can.

    The request remembers who is left to be asked, so it never comes back.
    """
    if tree is None:
        return False
    perform = job.perform
    names = perform.then if perform.then is not None else _chain(own, tree)
    for place, name in enumerate(names, 1):
        ref = tree.find(provider_role(name))
        other = tree.provider_config(name)
        if ref is None or other is None:
            continue
        if not can_stand_in(other, own, perform.request):
            log.debug("provider passed over", provider=name, model=perform.request.model)
            continue
        handed_on = evolve(
            perform,
            then=names[place:],
            deadline=job.deadline,
            sent=job.sent,
            begun_at=job.begun_at,
        )
        if tell(ref, handed_on):
            return True
    return False


def _chain(own: ProviderConfig, tree: ActorTree) -> tuple[str, ...]:
    """Who is asked when ``own`` cannot answer: those it names, then those that they name."""
    chain = [own.name]
    queue = [own]
    for config in queue:
        for name in config.fallback:
            if name not in chain:
                chain.append(name)
                other = tree.provider_config(name)
                if other is not None:
                    queue.append(other)
    return tuple(chain[1:])
