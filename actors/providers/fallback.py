"""Hand a request on to another provider's actor."""

from __future__ import annotations

import structlog
from attrs import evolve

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.actor.tree import ActorTree, provider_role
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.request import AbandonedAttempt, Perform, can_stand_in, chain_of
from aigateway.actors.providers.steps import FallBack
from aigateway.actors.values.provider_config import ProviderConfig
from aigateway.actors.values.sharing import ranked

__all__ = ["can_hand_on", "hand_on", "share"]

log = structlog.get_logger("ai-gateway.provider")


def hand_on(
    job: Job, step: FallBack, own: ProviderConfig, tree: ActorTree | None, now: float
) -> bool:
    """Let a fallback of ``own`` answer the job's request, if somebody is there who can.

    The request remembers who is left to be asked, so it never comes back; what was really
    answered so far; and who may have worked on it.
    """
    if tree is None:
        return False
    abandoned = job.perform.abandoned
    if step.abandoned:
        after = round(now - job.sent_at, 3)
        abandoned += (AbandonedAttempt(own.name, job.model, after, step.reason),)
    perform = evolve(
        job.perform,
        sent=job.sent,
        begun_at=job.begun_at,
        said=step.said or job.perform.said,
        abandoned=abandoned,
    )
    return _told(perform, own, _left(perform, own, tree), tree)


def can_hand_on(perform: Perform, own: ProviderConfig, tree: ActorTree | None) -> bool:
    """Whether somebody is there now who could answer in the place of ``own``."""
    if tree is None:
        return False
    for name in _left(perform, own, tree):
        other = tree.provider_config(name)
        if tree.find(provider_role(name)) is None or other is None:
            continue
        if can_stand_in(other, own, perform.request):
            return True
    return False


def _left(perform: Perform, own: ProviderConfig, tree: ActorTree) -> tuple[str, ...]:
    return perform.then if perform.then is not None else chain_of(own, tree)


def share(perform: Perform, own: ProviderConfig, tree: ActorTree | None) -> Perform | None:
    """Let the group of ``own`` share a request: None when another one answers it.

    Else it is to be answered here, and knows who is asked after that.
    """
    request = perform.request
    alone = request.credential is not None or not request.add_credential or not request.route
    if not own.group or alone or tree is None or perform.then is not None:
        return perform
    names = ranked(own.group, request.affinity.session)
    names += tuple(name for name in chain_of(own, tree) if name not in names)
    if _told(perform, own, names, tree, until=own.name):
        return None
    after = names[names.index(own.name) + 1 :] if own.name in names else ()
    return evolve(perform, then=after)


def _told(
    perform: Perform,
    own: ProviderConfig,
    names: tuple[str, ...],
    tree: ActorTree,
    until: str = "",
) -> bool:
    """Tell the first of ``names`` that can answer, none from ``until`` on."""
    for place, name in enumerate(names, 1):
        if name == until:
            break
        ref = tree.find(provider_role(name))
        other = tree.provider_config(name)
        if ref is None or other is None:
            continue
        if not can_stand_in(other, own, perform.request):
            log.debug("provider passed over", provider=name, model=perform.request.model)
            continue
        if tell_quietly(ref, evolve(perform, then=names[place:])):
            return True
    return False
