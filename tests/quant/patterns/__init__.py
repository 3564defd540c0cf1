"""One small net for each way in which real graphs are made: a pattern is a name, a net and what must hold for it."""

from tests.quant.patterns import assembled, blocks, exporters, layouts, norms, products, strange, transformers, weights
from tests.quant.patterns.pattern import Pattern

PATTERNS: dict[str, Pattern] = {
    pattern.name: pattern
    for module in (assembled, blocks, exporters, layouts, norms, products, strange, transformers, weights)
    for pattern in module.PATTERNS
}
