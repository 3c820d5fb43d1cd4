"""Text and token ids: byte-pair encoding, converters of the published data sets, detokenising."""
