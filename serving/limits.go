package serving

import "time"

// Limits bounds what requests may hold and how long they may take. The zero
// value of each is its default.
type Limits struct {
	// BodyBytes is the largest body of /v1/explain and /v1/what-if.
	BodyBytes int64 `name:"serve-body-bytes" help:"Largest body of /v1/explain and /v1/what-if." default:"64KiB" type:"bytes" advanced:""`
	// BatchBytes is the largest body of /v1/score, Batch the number of customers
	// in it.
	BatchBytes int64 `name:"serve-batch-bytes" help:"Largest body of /v1/score." default:"1MiB" type:"bytes" advanced:""`
	Batch      int   `name:"serve-batch-size" help:"Customers in one /v1/score." default:"1000" unit:"customers" advanced:""`
	// Page is the number of customers on one page of /v1/customers.
	Page int `name:"serve-page-size" help:"Customers on one page of /v1/customers." default:"500" unit:"customers" advanced:""`
	// Bodies is how many requests may have their bodies in memory at a time,
	// and BodyWait how long more than these wait.
	Bodies   int           `name:"serve-bodies" help:"Requests whose bodies are in memory at a time; more wait." default:"64" unit:"requests" advanced:""`
	BodyWait time.Duration `name:"serve-body-wait" help:"How long they wait before they are asked to come again." default:"5s" advanced:""`
	// PublishTimeout is how long a request that changes something waits for
	// Kafka and the registry.
	PublishTimeout time.Duration `name:"serve-publish-timeout" help:"How long a request that changes something waits for Kafka and the registry." default:"10s" advanced:""`
	// Streams is the number of event streams open at a time, StreamWrite how
	// long a browser may take to receive a notice.
	Streams     int           `name:"serve-streams" help:"Event streams to browsers open at a time." default:"1000" unit:"streams" advanced:""`
	StreamWrite time.Duration `name:"serve-stream-timeout" help:"How long a browser may take to receive a notice." default:"10s" advanced:""`
}
