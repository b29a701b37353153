"""The controller: brings cluster and record to what the objects of our kinds ask for."""
