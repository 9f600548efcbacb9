package workload

var set = Workload{
	Name: "set",
	What: "adds elements to a set by conditional write, so that none may be lost, come twice or come from nowhere",
	New: func(c Config) Generator {
		// Short: a set is written whole for each element.
		return newChain("set", c, 100, func(slot, n int, value string) (string, string) {
			e := element(slot, n)
			if value == "" {
				return e, e
			}
			return value + " " + e, e
		})
	},
}
