"""Where replicas meet: one behaviour, two servers. Memory within a process, Redis beyond it."""
