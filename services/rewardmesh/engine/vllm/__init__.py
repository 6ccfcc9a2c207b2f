"""vLLM as an engine: in this machine by its Python interface (`local`), or elsewhere by its OpenAI-compatible server (`server`)."""
