package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// latestVersions are the versions up to which our code knows what requests
// mean, where that is less than kmsg can encode: later ones name topics by id or
// ask for several groups at a time.
var latestVersions = map[int16]int16{
	int16(protocol.FindCoordinator): 3,
	int16(protocol.JoinGroup):       8,
	int16(protocol.OffsetCommit):    8,
	int16(protocol.OffsetFetch):     7,
	int16(protocol.Metadata):        12,
}

// maxAnswerBytes bounds what is believed of the size of an answer.
const maxAnswerBytes = 64 << 20

// exchange makes one exchange of a request that kafka-go has not, or has wrong:
// its heartbeats read the error from where the throttle time is, it encodes some
// group requests as neither the old nor the flexible versions are, and its
// metadata end before topic ids.
func (c *conn) exchange(req kmsg.Request) (kmsg.Response, error) {
	known, ok := c.ranges[protocol.ApiKey(req.Key())]
	if !ok {
		return nil, fmt.Errorf("the broker does not take requests of kind %s", kmsg.NameForKey(req.Key()))
	}
	latest, ok := latestVersions[req.Key()]
	if !ok {
		latest = req.MaxVersion()
	}
	version := min(known.max, latest)
	if version < known.min {
		return nil, fmt.Errorf("the broker takes %s from version %d on, this client has it up to %d", kmsg.NameForKey(req.Key()), known.min, latest)
	}
	req.SetVersion(version)
	c.lastID++
	id := c.lastID
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(c.clientID)).AppendRequest(nil, req, id)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > maxAnswerBytes {
		return nil, fmt.Errorf("an answer of %d bytes to %s", n, kmsg.NameForKey(req.Key()))
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(body)); got != id {
		return nil, fmt.Errorf("an answer to request %d, asked was %d", got, id)
	}
	body = body[4:]
	if req.IsFlexible() {
		var err error
		if body, err = skipTags(body); err != nil {
			return nil, err
		}
	}
	res := req.ResponseKind()
	res.SetVersion(version)
	if err := res.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", kmsg.NameForKey(req.Key()), err)
	}
	return res, nil
}

// skipTags leaves out the tagged fields of a flexible answer's header.
func skipTags(b []byte) ([]byte, error) {
	broken := false
	number := func() uint64 {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			broken = true
			return 0
		}
		b = b[n:]
		return x
	}
	for fields := number(); fields > 0 && !broken; fields-- {
		number() // the tag
		if size := number(); size <= uint64(len(b)) {
			b = b[size:]
		} else {
			broken = true
		}
	}
	if broken {
		return nil, errors.New("broken header of an answer")
	}
	return b, nil
}
