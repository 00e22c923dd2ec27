// Package integration runs real services on loopback for tests, without
// containers: Apache Kafka of one or several brokers, ClickHouse, and the
// churnstream program itself. Services can be killed, frozen and started
// again; every test has its own, with its own ports and data.
//
// What it runs, deploy/local/stack install has fetched. Tests and all but this
// comment need the build tag integration:
//
//	make integration
package integration
