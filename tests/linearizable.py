"""Whether calls on a queue, made by several processes at once, are what a single FIFO queue could have answered.

Linearizability is Herlihy and Wing's (1990): each call takes effect at one moment between its beginning and its end.
The search is Wing and Gong's (1993), with Lowe's memory of the states that led nowhere (2017). It knows nothing of
corelane.
"""

from dataclasses import dataclass

PUT, GET, FULL, EMPTY = "put", "get", "full", "empty"


NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has returned. `did` is PUT or GET of `value`; or FULL, a put refused; or EMPTY, a get refused."""

    began: int
    ended: int
    did: str
    value: object = None


def excuse(history):
    """The history without refusals that overlap a call of the other kind: that may have been in their way.

    Of a queue that keeps positions in order a get may find a record that is being written before the next one, and a
    put one that is being read before the next room.
    """
    others = {EMPTY: [call for call in history if call.did == PUT], FULL: [call for call in history if call.did == GET]}

    def is_excused(call):
        return any(other.began < call.ended and call.began < other.ended for other in others.get(call.did, ()))

    return [call for call in history if not is_excused(call)]


def linearize(history, capacity):
    """The calls in an order in which a FIFO queue for `capacity` records does just these; None: there is none.

    No call may be missing, and no value is put twice. What was put and not got is still in the queue.
    """
    calls = sorted(history, key=lambda call: call.began)
    gets = {call.value: call for call in reversed(calls) if call.did == GET}

    def got(value):
        return (gets[value].began, gets[value].ended) if value in gets else (NEVER, NEVER)

    def after(state, call):  # the queue after it, or None: it cannot be made now
        if call.did == PUT:
            # Not behind one that is got later: no order would bring them out as they were.
            fits = len(state) < capacity and not (state and got(call.value)[1] < got(state[-1])[0])
            return (*state, call.value) if fits else None
        if call.did == GET:
            return state[1:] if state and state[0] == call.value else None
        return state if len(state) == (capacity if call.did == FULL else 0) else None

    # Where we are: the queue, the first call that is left, those after it that are made, how many were tried there.
    state, first, made, tried = (), 0, frozenset(), 0
    order, seen, road = [], set(), []
    while first < len(calls):
        # One that begins after another has ended comes after it.
        nexts, limit = [], NEVER
        for each in range(first, len(calls)):
            if calls[each].began > limit:
                break
            if each not in made:
                nexts.append(each)
                limit = min(limit, calls[each].ended)
        # What changes nothing first: that is never wrong. Then gets; then puts, those first that are got first.
        nexts.sort(key=lambda each: (calls[each].did == PUT, calls[each].did == GET, got(calls[each].value)))
        for turn, each in enumerate(nexts[tried:], tried):
            then = after(state, calls[each])
            if then is None:
                continue
            behind, start = made | {each}, first
            while start in behind:
                behind, start = behind - {start}, start + 1
            if (then, start, behind) not in seen:
                seen.add((then, start, behind))
                # After one that changes nothing there is no other choice to come back for.
                road.append((state, first, made, turn if calls[each].did in (PUT, GET) else len(nexts)))
                order.append(calls[each])
                state, first, made, tried = then, start, behind, 0
                break
        else:
            if not road:
                return None
            state, first, made, turn = road.pop()
            order.pop()
            tried = turn + 1
    return order
