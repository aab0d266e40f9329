"""The avatar world: people, poses, scenes, captions; every sample a pure function of its seed."""
