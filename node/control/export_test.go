package control

// Check says which invariant the state breaks.
func (s *State) Check() error { return s.check() }
