"""The engine room: stages run by workers, in this process or spread over Ray."""
