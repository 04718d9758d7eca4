"""An index for language models: tools over the service's documents, offered by the Model Context Protocol (MCP)."""
