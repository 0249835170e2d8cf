"""3D Gaussian splatting of a video with cameras, recorded or generated (paper 7.1 (4)): a scene that is rendered from any pose.

`scene` renders, `fit` optimises, `starts` finds first points, `footage` reads videos with cameras, `files` writes .ply and .splat,
`score` measures against what a game engine shows (protocol `splats`), `viewer` shows a scene in the browser.
"""
