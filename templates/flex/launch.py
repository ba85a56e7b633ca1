"""The entry of a flex template's launcher; ``beam_vision.pipelines.template_launch`` says what it does."""

import sys

from beam_vision.pipelines.template_launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
