package workload

import (
	"strconv"
)

var counter = Workload{
	Name: "counter",
	What: "adds to a counter by conditional write, so that it is never below what was acknowledged or above what was tried",
	New: func(c Config) Generator {
		random := c.random("counter added") // Next's lock protects it
		return newChain("counter", c, 300, func(_, _ int, value string) (string, string) {
			sum, err := strconv.Atoi(value)
			if err != nil {
				// Nothing there, or nothing that anybody wrote: the checker says so.
				sum = 0
			}
			// Different ones: of equal ones a lost and a repeated cancel out.
			add := 1 + random.IntN(9)
			return strconv.Itoa(sum + add), "+" + strconv.Itoa(add)
		})
	},
}
