package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/capstan-kv/capstan/api/client"
)

func Example() {
	cluster := newFakeCluster(3, 16) // stands for a running cluster
	defer cluster.close()

	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	if _, err := c.Put(ctx, []byte("cart:42"), []byte("apple")); err != nil {
		log.Fatal(err)
	}
	got, err := c.Get(ctx, []byte("cart:42"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%t %s\n", got.Found, got.Value)
	// Output: true apple
}

// A write that failed is one of two things, and only one of them may be tried
// again.
func ExampleIsNotApplied() {
	cluster := newFakeCluster(1, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	for range 2 {
		_, err = c.Put(ctx, []byte("lock"), []byte("me"), client.IfAbsent())
		switch {
		case err == nil:
			fmt.Println("locked")
		case errors.Is(err, client.ErrConditionFailed):
			fmt.Println("held by another")
		case client.IsNotApplied(err):
			fmt.Println("nothing was written: a retry is safe")
		case client.IsOutcomeUnknown(err):
			fmt.Println("read the key before writing again")
		}
	}
	// Output:
	// locked
	// held by another
}

func ExampleClient_Scan() {
	cluster := newFakeCluster(1, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	for _, k := range []string{"fruit:fig", "fruit:apple", "root:beet"} {
		if _, err := c.Put(ctx, []byte(k), nil); err != nil {
			log.Fatal(err)
		}
	}
	for entry, err := range c.Scan(ctx, client.Prefix([]byte("fruit:")), client.KeysOnly()) {
		if err != nil {
			log.Fatal(err) // the scan is incomplete
		}
		fmt.Printf("%s\n", entry.Key)
	}
	// Output:
	// fruit:apple
	// fruit:fig
}

func ExampleVia() {
	cluster := newFakeCluster(3, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	got, err := c.Get(context.Background(), []byte("cart:42"), client.Via("n2"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(got.Found, "by", got.Freshness.ServedBy)
	// Output: false by n2
}
