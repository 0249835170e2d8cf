"""The one error for bad input: it names the file, the field, what was found, what is wanted and the mend."""


class InputError(ValueError):
    """Bad input from outside: a file, a setting, a command. The command line prints it as one line and exits with status 2.

    file:   the file, folder or source at fault
    field:  the field, row, key or frame in it ("" when the whole file is meant)
    found:  what stood there
    wanted: what should stand there
    mend:   what the user can do about it
    """

    def __init__(self, file: object, field: object, found: object, wanted: str, mend: str) -> None:
        self.file, self.field, self.found, self.wanted, self.mend = str(file), str(field), str(found), wanted, mend
        super().__init__(file, field, found, wanted, mend)

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return " ".join(f"{where}: found {self.found}, wanted {self.wanted}; {self.mend}".split())
