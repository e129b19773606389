package linstor

import "strings"

// placementChanged does what follows from a new set of resources: the node
// whose disk comes first for each new volume, the tiebreaker, the quorum.
func (c *Controller) placementChanged(rd *resourceDefinition) Replies {
	for _, vd := range rd.sortedVolumes() {
		c.chooseWinner(rd, vd)
	}
	return c.manageTieBreaker(rd)
}

// manageTieBreaker adds the tiebreaker that an even number of diskful
// resources needs, removes the one that is needed no more, and sets the quorum
// accordingly (CtrlRscAutoTieBreakerHelper, CtrlRscAutoQuorumHelper).
func (c *Controller) manageTieBreaker(rd *resourceDefinition) Replies {
	defer c.setQuorum(rd)
	if rd.deleted() {
		return nil
	}
	diskful, diskless, tieBreakers := rd.placed()
	needed := c.tieBreakerWanted(rd) && len(diskful) > 0 && len(diskful)%2 == 0 && len(diskless) == 0
	switch {
	case !needed:
		for _, r := range tieBreakers {
			r.flags = addFlag(addFlag(r.flags, flagDelete), flagDRBDDelete)
		}
		return nil
	case len(tieBreakers) > 0:
		return nil
	}
	for _, n := range c.tieBreakerCandidates() {
		if rd.resources[n.name] == nil {
			c.addResource(rd, n.name, "", true)
			return Replies{success(codeCreated, objResource|opCreate, "Tie breaker resource '%s' created on %s", rd.name, disklessPool)}
		}
	}
	return Replies{warning(warnNoNodeForTieBreaker, objDefinition|opModify, "Could not find suitable node to automatically create a tie breaking resource for '%s'.", rd.name)}
}

func (c *Controller) tieBreakerWanted(rd *resourceDefinition) bool {
	return !strings.EqualFold(c.prop(rd, propAutoTieBreaker), "false")
}

// tieBreakerCandidates lists the online nodes, those with storage first: they
// run DRBD in every laboratory.
func (c *Controller) tieBreakerCandidates() []*node {
	var storage, others []*node
	for _, n := range c.sortedNodes() {
		switch {
		case !n.online:
		case len(n.pools) > 1:
			storage = append(storage, n)
		default:
			others = append(others, n)
		}
	}
	return append(storage, others...)
}

// setQuorum writes DRBD's quorum as LINSTOR's auto-quorum does: majority with
// three or more diskful resources, or two and any diskless one.
func (c *Controller) setQuorum(rd *resourceDefinition) {
	switch strings.ToLower(c.prop(rd, propAutoQuorum)) {
	case "disabled":
		return
	case "io-error", "suspend-io":
		if _, own := rd.props[propAutoQuorum]; own {
			rd.props[propOnNoQuorum] = rd.props[propAutoQuorum]
		}
	}
	diskful, diskless, tieBreakers := rd.placed()
	if len(diskful) >= 3 || len(diskful) == 2 && len(diskless)+len(tieBreakers) > 0 {
		rd.props[propQuorum] = "majority"
	} else if len(diskful)+len(diskless) > 0 {
		rd.props[propQuorum] = "off"
	}
}
