package kafka

import (
	"errors"

	kafkago "github.com/segmentio/kafka-go"
)

// passing reports whether trying again may cure err. Everything that is not a
// broker's answer (networks, routing by metadata that is still to come) may
// pass; of the answers, those that Kafka calls retriable, a few that kafka-go
// does not count among them, and those about passwords and rights: a broker
// that has just started may not know them yet, and people change them while
// processes run.
func passing(err error) bool {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return true
	}
	switch code {
	case kafkago.Unknown, kafkago.BrokerNotAvailable, kafkago.ReplicaNotAvailable,
		kafkago.ConcurrentTransactions,
		kafkago.SASLAuthenticationFailed, kafkago.TopicAuthorizationFailed, kafkago.GroupAuthorizationFailed,
		kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed:
		return true
	}
	return code.Temporary()
}
