"""Where the time of somebody's training goes: gather (a program from inside, or a process from outside), judge, draw."""
