"""How scores are computed: compiled loops for the CPU, plain operations elsewhere, blocks of one shape for both."""
