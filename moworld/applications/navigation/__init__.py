"""Navigation to a goal picture through a level that the model never saw: propose, simulate, revise (paper 7.4).

`tasks` makes tasks on a game level, `player` moves the engine's player by its buttons, `planners` proposes keys and chooses by imagined
pictures, `simulators` imagines them (world model, or the engine as upper bound), `head` estimates how far a goal is from a picture and
`head_training` trains it on walks of `walks`, `agents` joins them, `metrics` and `score` measure (protocol `navigate`), `environment` is the
task for Gymnasium.
"""
