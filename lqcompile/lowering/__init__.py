"""From a fusion plan to an IRModule: formats, parameters, kernel choice, Relax, and the planned driver."""
