import sys

from raymodel.cli import main

sys.exit(main())
