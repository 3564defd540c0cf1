"""One small net for each way in which real graphs are made: a pattern is a name, a net and what must hold for it."""

from tests.quant.patterns import blocks, layouts, products, strange, weights
from tests.quant.patterns.pattern import Pattern

PATTERNS: dict[str, Pattern] = {
    pattern.name: pattern for module in (blocks, layouts, products, strange, weights) for pattern in module.PATTERNS
}
