"""What workers announced, where there is no store to ask."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gnomon.job.handlers import HandlerInfo


@dataclass
class KnownCatalog:
    """These and no others; `asked` is what of it was looked up."""

    infos: Sequence[HandlerInfo] = ()
    strategies: Sequence[str] = ()
    asked: list[str] = field(default_factory=list)

    def handler(self, name: str) -> HandlerInfo | None:
        self.asked.append(name)
        return next((one for one in self.infos if one.name == name), None)

    def handlers(self) -> Sequence[HandlerInfo]:
        return self.infos

    def retry_strategies(self) -> Sequence[str]:
        self.asked.append("strategies")
        return self.strategies
