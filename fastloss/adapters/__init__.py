"""Roads into other libraries, one thin file each; imported when they are asked for."""
