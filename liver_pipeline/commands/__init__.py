"""One module a verb of the command line, each with one public function."""
