package check

// Stats are numbers of a run that judge nothing. Each part belongs to the checker
// that sets it; nil: it did not run.
type Stats struct{}
