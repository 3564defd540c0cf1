import sys
from pathlib import Path

import app

sys.path.insert(0, str(Path(app.__file__).parent.parent))

from app.child import main as child_main

child_main.find_function = child_main.import_function
child_main.main()
