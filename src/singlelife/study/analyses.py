from dataclasses import dataclass
@dataclass(frozen=True)
class Analysis:
    measures: tuple[str, ...]
    models: tuple[str, ...]
ANALYSES = {
 "curve": Analysis(("agreement",), ("models","controls")),
 "controls": Analysis(("agreement",), ("lives","controls","baseline")),
 "groups": Analysis(("agreement",), ()),
 "order": Analysis(("agreement","depth","correspondence"), ("expected",)),
 "equal": Analysis(("agreement","depth","correspondence"), ("one","many")),
 "position": Analysis((), ("models",)),
 "correlation": Analysis(("agreement","depth","correspondence"), ("models",)),
}
