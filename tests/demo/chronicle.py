"""What is heard on the broker, as lines for people; and how long each step of each call took."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

from bridge.contract import Phase
from bridge.envelope import Event


@dataclass(slots=True)
class CallStory:
    """One call from its request to its reply. `steps` are (name, begin), `message` is what each last said."""

    call: str
    computer: str
    reservation: int | None
    began: float
    steps: list[tuple[str, float]] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    ended: float | None = None
    result: dict[str, object] = field(default_factory=dict)

    def seconds(self) -> dict[str, float]:
        """Step -> how long it took; a step entered twice counts twice."""
        assert self.ended is not None, "the call has not ended"
        borders = [*self.steps, ("", self.ended)]
        taken: dict[str, float] = {}
        for (name, begin), (_, end) in pairwise(borders):
            taken[name] = taken.get(name, 0.0) + end - begin
        return taken


class Chronicle:
    """Prints each event as it is heard, and keeps the stories of the calls by their event ids."""

    def __init__(self) -> None:
        self.stories: dict[str, CallStory] = {}
        self._began = time.monotonic()
        self._print = threading.Lock()
        self._changed = threading.Condition()

    def wait_until_told(self, timeout_s: float = 10) -> list[CallStory]:
        """All stories, once each has its end. AssertionError if one has none."""
        with self._changed:
            told = self._changed.wait_for(lambda: all(story.ended for story in self.stories.values()), timeout_s)
            open_ends = [f"{story.call} {story.computer}" for story in self.stories.values() if not story.ended]
        assert told, f"no reply was heard to {', '.join(open_ends)}"
        return list(self.stories.values())

    def say(self, who: str, what: str) -> None:
        """One line, at its time."""
        with self._print:
            print(f"{time.monotonic() - self._began:6.2f} s  {who:<15} {what}", flush=True)

    def heard(self, at: float, event: Event) -> None:
        """An event went over the broker."""
        with self._changed:
            story = self.stories.get(event.causationid or "")
            if event.phase is Phase.REQUESTED:
                self._requested(at, event)
            elif story is not None and event.phase is Phase.PROGRESSED:
                self._progressed(at, story, event)
            elif story is not None:
                self._finished(at, story, event)
                self._changed.notify_all()

    def _requested(self, at: float, event: Event) -> None:
        data = event.data
        computer, image = data.get("computer", {}).get("name", ""), data.get("image", {}).get("name", "")
        if event.id in self.stories:
            self.say("vcld → esxprov", f"{event.call} {computer}: are you there?")
            return
        reservation = data.get("reservation", {}).get("reservation_id")
        self.stories[event.id] = CallStory(event.call, computer, reservation, at)
        self.say("vcld → esxprov", f"{event.call} {computer} {image}")

    def _progressed(self, at: float, story: CallStory, event: Event) -> None:
        step, message = str(event.data["step"]), str(event.data["message"])
        if not story.steps or story.steps[-1][0] != step:
            story.steps.append((step, at))
        percent = event.data.get("percent")
        story.messages[step] = message
        self.say(
            "vcld ← esxprov", f"{story.call} {story.computer}: {message}" + ("" if percent is None else f" {percent} %")
        )

    def _finished(self, at: float, story: CallStory, event: Event) -> None:
        story.ended = at
        outcome = event.data["outcome"]
        story.result = event.data.get("result") or {}
        facts = story.result if outcome == "ok" else event.data["error"]["message"]
        shown = ", ".join(f"{key} {value}" for key, value in facts.items()) if isinstance(facts, dict) else facts
        self.say("vcld ← esxprov", f"{story.call} {story.computer} {outcome} in {at - story.began:.2f} s: {shown}")
