"""What a process that autorestart spawns runs first, in the place of the program that was started.

``spawn`` imports the main module of its parent under the name ``__mp_main__``; see ``cszoo_launch``.
"""

import os
import threading
import time


def end_with_parent() -> None:
    """From here on, this process ends within a second of its parent.

    A trainer whose parent was killed would go on writing, where a run is started again. Linux can tell
    by a signal, but when the thread ends that started the process, not the process.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__mp_main__":
    from cerebras_utils.register import register

    end_with_parent()
    register()
    from cerebras_utils.cszoo_callbacks import watch_runs

    watch_runs()
