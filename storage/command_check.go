package storage

// CheckCommand says why no replica of this build can apply an encoded command;
// nil if each can. It looks at the bytes alone, and keeps none of them.
func CheckCommand(b []byte) error {
	_, err := decodeAnyCommand(b, nil)
	return err
}
