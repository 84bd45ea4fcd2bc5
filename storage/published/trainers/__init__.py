"""One file per trainer, called as `synthmill export RUN --for NAME` calls it, with _ for -; nothing registers it."""
