"""Applications of a world model or of any video with cameras (paper 7), each in a folder of its own."""
